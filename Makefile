# The targets are what .ci/run uses; `make check test` before a commit.

GO    ?= go
BIN   := $(CURDIR)/bin
FUZZ  ?= 10s

# Packages whose tests are about concurrency.
RACE  := ./agent/... ./api/... ./consensus/... ./membership/... ./ops/... ./security/... ./state/watch/... ./storage/... ./transport/...

.PHONY: build test check tidy lint race e2e campaign compat xds lives fuzz seeds mutants bench bench-check bench-parts vuln clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/parley ./cmd/agent

test:
	$(GO) test -timeout 30m ./...

check: tidy lint

# Import graph, purity, sizes; formatting; go.mod.
tidy:
	$(GO) test -count=1 .
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) mod verify

lint: $(BIN)/golangci-lint $(BIN)/staticcheck
	$(GO) vet ./...
	$(BIN)/golangci-lint run --allow-parallel-runners
	$(BIN)/staticcheck ./...

$(BIN)/golangci-lint: tools/go.mod
	cd tools && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BIN)/staticcheck: tools/go.mod
	cd tools && $(GO) build -o $@ honnef.co/go/tools/cmd/staticcheck

race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(RACE)

# Real agent processes. What needs root, iproute2 and nftables skips elsewhere, and fails with CI=true.
e2e:
	$(GO) test -count=1 -timeout 30m -v ./test/e2e

# The drills of certificates' lifetimes with certificates of LIFE: no quorum for three lives, and everything frozen for two.
# `make test` has them with ten seconds.
LIFE ?= 60s
lives:
	$(GO) test -count=1 -v -timeout 10m ./test/e2e -run '^(TestCertificatesOutliveTheQuorum|TestAllFrozenPastTheirLives)$$' -life $(LIFE)

# Real agents under load in network namespaces: kill -9, stops, cuts, full disks, failing syncs, for as long as one wants.
# SEED repeats the order of the faults of a run; MUTANT plants a mistake in the program, which has to make it fail.
KILLS ?= 200
CORE  ?= 3
campaign:
	$(if $(SEED),PARLEY_TEST_SEED=$(SEED)) CI=true $(GO) test -count=1 -v -timeout 12h ./test/e2e -run '^TestCampaign$$' \
		-kills $(KILLS) -core $(CORE) $(if $(MUTANT),-mutant $(MUTANT))

# The own tests of an existing client against this program; test/compat/run -write also writes docs/compatibility.md.
compat:
	cd test/compat && $(GO) vet ./... && $(GO) test ./...
	test/compat/run

# gRPC's xDS client by the files that `parley identity fetch` keeps.
xds:
	cd test/xds && $(GO) vet ./... && $(GO) test -count=1 ./...

fuzz:
	tools/fuzz $(FUZZ)

# The simulator: FROM is the first seed, SEEDS how many; the run is added to docs/simulation.md.
seeds:
	tools/seeds $(FROM) $(SEEDS)

# Mistakes that are planted, and must be found: within BUDGET of CPU time, all by default.
mutants:
	tools/mutants $(BUDGET)

# Parley beside etcd, in alternation on this machine: three runs, about 18 minutes, written to docs/benchmarks.md.
# ARGS=-quick is one short run that is written nowhere; ARGS=-h has the rest.
bench:
	cd test/bench && $(GO) build -o $(BIN)/bench . && exec $(BIN)/bench $(or $(ARGS),-docs ../../docs/benchmarks.md)

# What the comparison computes with; it compiles etcd's client and not its server.
bench-check:
	cd test/bench && $(GO) vet ./... && $(GO) test ./...

# The figures of docs/benchmarks.md that are about Parley alone.
bench-parts:
	$(GO) test -run '^$$' -bench . -benchtime 5s ./test/e2e

# Needs the vulnerability database at vuln.go.dev.
vuln:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@latest ./...

clean:
	rm -rf $(BIN)
