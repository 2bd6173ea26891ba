package workload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/parley-mesh/parley/security/invocation"
)

// The programs of attackers, and of an honest caller. This test binary runs itself as one of them when the environment says so.
const (
	programVariable = "PARLEY_TEST_PROGRAM"
	honest          = "honest"      // asks for its identity
	childAsks       = "child-asks"  // connects, starts a child with the connection, becomes another program; the child asks
	parentAsks      = "parent-asks" // connects, asks, starts a child with the connection, becomes another program; the child reads
	parentEnds      = "parent-ends" // connects, starts a child with the connection, ends; the child asks
	childOfAttack   = "child"
)

func TestMain(m *testing.M) {
	program := os.Getenv(programVariable)
	if program == "" {
		os.Exit(m.Run())
	}
	if err := runProgram(program, os.Args[1:]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// runProgram is the main function of the programs. The first argument is the workload socket.
func runProgram(program string, args []string) error {
	if program == childOfAttack {
		return attackersChild(args[0], args[1])
	}
	socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: args[0], Net: "unix"})
	if err != nil {
		return err
	}
	if program == honest {
		return ask(socket)
	}
	if program == parentAsks {
		if _, err := socket.Write(wholeRequest()); err != nil {
			return err
		}
	}
	file, err := socket.File()
	if err != nil {
		return err
	}
	child := exec.Command(os.Args[0], program, strconv.Itoa(os.Getpid())) //nolint:gosec // this binary
	child.Env = []string{programVariable + "=" + childOfAttack}
	child.Stdin, child.Stdout, child.Stderr, child.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{file}
	if err := child.Start(); err != nil {
		return err
	}
	if program == parentEnds {
		return untilServed(socket) // the child is then the only one with the connection
	}
	return syscall.Exec(sleeper(), []string{"sleep", "60"}, nil) //nolint:gosec // the entitled program
}

// untilServed waits for the server's first byte, and leaves it there.
func untilServed(socket *net.UnixConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK) //nolint:gosec // a descriptor
		return !errors.Is(err, syscall.EAGAIN)
	})
}

// sleeper is the program that entries of these tests are for, as the kernel names it.
func sleeper() string {
	path, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		panic(err)
	}
	return path
}

// attackersChild has its parent's connection as descriptor 3. It waits until it is told that all is in place.
func attackersChild(program, parent string) error {
	conn, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	if program != parentEnds {
		for path := ""; path != sleeper(); time.Sleep(time.Millisecond) {
			path, _ = os.Readlink("/proc/" + parent + "/exe") // there is none for a moment while it becomes another program
		}
	}
	fmt.Println("in place")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if program == parentAsks {
		return readAnswer(conn)
	}
	return ask(conn)
}

// ask prints the code of the answer, or that it had a key in it.
func ask(conn net.Conn) error {
	client, err := dialOver(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, securityHeader, "true")
	stream, err := api.NewSpiffeWorkloadAPIClient(client).FetchX509SVID(ctx, &api.X509SVIDRequest{})
	if err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err != nil {
		fmt.Println(status.Code(err), err)
		return nil
	}
	fmt.Println("key of", answer.GetSvids()[0].GetSpiffeId())
	return nil
}

// wholeRequest is everything that a client has to send for FetchX509SVID.
func wholeRequest() []byte {
	var all, block bytes.Buffer
	all.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&all, nil), hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/SpiffeWorkloadAPI/FetchX509SVID"}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {securityHeader, "true"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // to memory, like what follows
	}
	_ = framer.WriteSettings()
	_ = framer.WriteSettingsAck()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = framer.WriteData(1, true, make([]byte, 5)) // an empty message
	return all.Bytes()
}

// readAnswer answers PINGs and nothing else, and prints what the server says to the request that the parent sent.
func readAnswer(conn net.Conn) error {
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				if err := framer.WritePing(true, f.Data); err != nil {
					return err
				}
			}
		case *http2.DataFrame:
			fmt.Println("key in", len(f.Data()), "bytes")
			return nil
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					code, _ := strconv.ParseUint(field.Value, 10, 32)
					fmt.Println(codes.Code(code)) //nolint:gosec // 32 bits
					return nil
				}
			}
		}
	}
}

// running is an attack in progress.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	input  *os.File
	output *bufio.Reader
}

func start(t *testing.T, path, program, socket string) *running {
	t.Helper()
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, socket) //nolint:gosec // this binary, or a copy
	cmd.Env = []string{programVariable + "=" + program}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inRead, outWrite, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = inRead.Close(), outWrite.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_, _ = inWrite.Close(), outRead.Close()
	})
	_ = outRead.SetReadDeadline(time.Now().Add(40 * time.Second))
	return &running{t: t, cmd: cmd, input: inWrite, output: bufio.NewReader(outRead)}
}

func (r *running) line() string {
	r.t.Helper()
	text, err := r.output.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func (r *running) goOn() {
	r.t.Helper()
	if _, err := r.input.WriteString("go\n"); err != nil {
		r.t.Fatal(err)
	}
}

func forSleeper() entry {
	return entry{id: "spiffe://test.example/svc/sleep", want: []Selector{ownUID(), selector(KindPath, sleeper())}}
}

// A program that is entitled gets its identity, by path and by hash.
func TestEntitledProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "entitled")
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, binary, 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	source := newFakeSource(t, testTD)
	server, socket := serve(t, source)
	found, err := server.Inspect(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	hash := found[len(found)-2]
	if !strings.HasPrefix(string(hash), "sha256:") || len(hash) != len("sha256:")+64 {
		t.Fatalf("got selectors %q", found)
	}
	source.entitle(entry{id: webID, want: []Selector{selector(KindPath, program), hash, ownUID()}})
	if got := start(t, program, honest, socket).line(); got != "key of "+webID {
		t.Errorf("the entitled program got %q", got)
	}
	if got := start(t, os.Args[0], honest, socket).line(); !strings.HasPrefix(got, "PermissionDenied") {
		t.Errorf("the same program at another path got %q", got)
	}
}

// The child of a process that has become an entitled program is not given that program's identity, whether the child asks
// itself or its parent did before. Without the checks it is: each is needed against one of the two.
func TestExecRace(t *testing.T) {
	for _, test := range []struct {
		name    string
		program string
		off     checks
		want    string
	}{
		{"the child asks", childAsks, checks{}, "PermissionDenied"},
		{"the parent asked", parentAsks, checks{}, "PermissionDenied"},
		{"control: the child asks, only the sender is looked at", childAsks, checks{noChallenge: true}, "PermissionDenied"},
		{"control: the child asks, only a pidfd is held", childAsks, checks{noSender: true, noChallenge: true}, "key"},
		{"control: the parent asked, no challenge", parentAsks, checks{noChallenge: true}, "key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := newFakeSource(t, testTD)
			source.entitle(forSleeper())
			inPlace := make(chan struct{})
			off := test.off
			if test.program == parentAsks {
				off.before = func() { <-inPlace }
			}
			_, socket := serve(t, source, func(s *Server) { s.checks = off })
			attack := start(t, os.Args[0], test.program, socket)
			if got := attack.line(); got != "in place" {
				close(inPlace)
				t.Fatalf("the attack said %q", got)
			}
			close(inPlace)
			attack.goOn()
			if got := attack.line(); !strings.HasPrefix(got, test.want) {
				t.Errorf("the attack got %q, want %s", got, test.want)
			}
		})
	}
}

// A process that has ended does not speak through one that was given its number, however much that one is entitled to.
func TestPidReuse(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, to choose the number of a process")
		}
		t.Skip("needs root, to choose the number of a process")
	}
	for _, test := range []struct {
		name string
		off  checks
		want string
	}{
		{"all checks", checks{}, "PermissionDenied"},
		{"control: the pidfd alone", checks{noSender: true, noChallenge: true}, "PermissionDenied"},
		{"control: nothing but the number", checks{noPidfd: true, noSender: true, noChallenge: true}, "key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := newFakeSource(t, testTD)
			source.entitle(forSleeper())
			_, socket := serve(t, source, func(s *Server) { s.checks = test.off })
			attack := start(t, os.Args[0], parentEnds, socket)
			if got := attack.line(); got != "in place" {
				t.Fatalf("the attack said %q", got)
			}
			pid := attack.cmd.Process.Pid
			_ = attack.cmd.Wait() // its number is free now
			reuse(t, pid)
			attack.goOn()
			if got := attack.line(); !strings.HasPrefix(got, test.want) {
				t.Errorf("the attack got %q, want %s", got, test.want)
			}
		})
	}
}

// reuse starts the entitled program under a number. Other processes of the machine take numbers as well, so it may take some
// attempts.
func reuse(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(sleeper(), "60") //nolint:gosec // the entitled program
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			return
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Fatalf("number %d was never given out again", pid)
}

// In a user namespace of one's own one may claim to be any process in there, and mount anything anywhere: what runs there
// counts as its user, and not as its program.
func TestForeignNamespace(t *testing.T) {
	server := New(Options{Source: newFakeSource(t, testTD), Now: time.Now})
	for name, flags := range map[string]uintptr{
		"none": 0, "user": syscall.CLONE_NEWUSER, "user and pid": syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
	} {
		cmd := exec.Command(sleeper(), "60") //nolint:gosec // the entitled program
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		if flags != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		if err := cmd.Start(); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skipf("no namespaces here: %v", err)
		}
		found, err := server.Inspect(t.Context(), cmd.Process.Pid)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(found, ownUID()) {
			t.Errorf("%s: got %q without its user", name, found)
		}
		program := slices.ContainsFunc(found, func(s Selector) bool {
			return strings.HasPrefix(string(s), "path:") || strings.HasPrefix(string(s), "sha256:")
		})
		if program != (flags == 0) {
			t.Errorf("namespaces %s: got %q", name, found)
		}
	}
}

// A process that does not answer a PING is not served, and told to ask again.
func TestNoAnswerNoIdentity(t *testing.T) {
	source := newFakeSource(t, testTD)
	source.entitle(web())
	_, path := serve(t, source, func(s *Server) { s.checks.within = 100 * time.Millisecond })
	socket, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // a test's
	if _, err := socket.Write(wholeRequest()); err != nil {
		t.Fatal(err)
	}
	_ = socket.SetDeadline(time.Now().Add(20 * time.Second))
	framer := http2.NewFramer(io.Discard, socket) // it reads and says nothing
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		headers, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		if !slices.Contains(headers.Fields, hpack.HeaderField{Name: "grpc-status", Value: strconv.Itoa(int(codes.Unavailable))}) {
			t.Errorf("got %v", headers.Fields)
		}
		return
	}
}

// A program over the limit has no hash, and its user waits for nobody.
func TestLargeProgramHasNoHash(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // a test's
	if err := file.Truncate(maxProgramBytes + 1); err != nil {
		t.Fatal(err)
	}
	h := newHashes(time.Now)
	h.turns[7] <- struct{}{} // somebody's program is being read
	if sum, err := h.of(t.Context(), 7, file); err != nil || sum != "" {
		t.Errorf("got %q, %v", sum, err)
	}
	if err := file.Truncate(1); err != nil {
		t.Fatal(err)
	}
	if sum, err := h.of(t.Context(), 8, file); err != nil || len(sum) != 64 {
		t.Errorf("beside another user's program: got %q, %v", sum, err)
	}
}

// A hash is kept as long as the file is what it was, and not longer.
func TestHashFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	h := newHashes(func() time.Time { return time.Now().Add(time.Hour) }) // any change is long ago
	sums := map[string]bool{}
	for _, text := range []string{"one", "two", "two and more"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			file, err := os.Open(path) //nolint:gosec // a test's
			if err != nil {
				t.Fatal(err)
			}
			sum, err := h.of(t.Context(), 0, file)
			_ = file.Close()
			if err != nil {
				t.Fatal(err)
			}
			sums[sum] = true
		}
		time.Sleep(20 * time.Millisecond) // the file system's clock has to go on: this is why young hashes are not kept
	}
	if len(sums) != 3 {
		t.Errorf("got %d hashes of three contents", len(sums))
	}
	if n := len(h.mu.known); n != 3 {
		t.Errorf("got %d hashes kept, want 3", n)
	}
	h = newHashes(time.Now)
	file, err := os.Open(path) //nolint:gosec // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // a test's
	if _, err := h.of(t.Context(), 0, file); err != nil || len(h.mu.known) != 0 {
		t.Errorf("the hash of a file that just changed is kept (%v)", err)
	}
}

// A process of a unit is known by the unit's run as well where systemd says which one that is, and by what else is known where it does not.
func TestRunOfAUnit(t *testing.T) {
	p, err := openPeer(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	const cgroup = "/system.slice/web.service/worker"
	for what, runs := range map[string]*invocation.Asker{
		"nobody is asked": nil,
		"there is no bus": invocation.New(filepath.Join(t.TempDir(), "none"), time.Now),
	} {
		if got, err := p.unit(t.Context(), cgroup, runs); err != nil || !slices.Equal(got, []Selector{"unit:web.service"}) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	if got, err := p.unit(t.Context(), "/user.slice", invocation.New("none", time.Now)); err != nil || len(got) != 0 {
		t.Errorf("no unit: %q, %v", got, err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test's
	go func() {     // a bus that knows one answer, until the test ends
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close() //nolint:errcheck // a test's
		_, _ = io.WriteString(c, "OK 0123\r\n")
		_, _ = io.WriteString(c, "l\x02\x00\x01\x18\x00\x00\x00\x01\x00\x00\x00\x0f\x00\x00\x00"+
			"\x05\x01u\x00\x02\x00\x00\x00\x08\x01g\x00\x01v\x00\x00"+"\x02ay\x00\x10\x00\x00\x000123456789abcdef")
		_, _ = io.Copy(io.Discard, c)
	}()
	want := []Selector{"unit:web.service", "invocation:30313233343536373839616263646566"}
	if got, err := p.unit(t.Context(), cgroup, invocation.New(l.Addr().String(), time.Now)); err != nil || !slices.Equal(got, want) {
		t.Errorf("systemd knows it: %q, %v", got, err)
	}
	if groupNumber("/") == 0 || groupNumber("/none/"+t.Name()) != 0 {
		t.Error("a group's number is not found, or one of none is")
	}
}
