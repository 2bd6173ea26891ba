package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const fakeToken = "parley1-SECRET"

var fakeExpires = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeMain stands in for the parley program: init makes the data directory, agent serves just enough of
// the API on the admin socket. FAKE_FAIL names what is to fail.
func fakeMain(args []string) {
	name, dir := flagOf(args, "--name"), flagOf(args, "--data-dir")
	fail := os.Getenv("FAKE_FAIL")
	if fail == args[0] || args[0] == "agent" && fail == name {
		fmt.Println("cannot: made to fail")
		os.Exit(1)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		panic(err)
	}
	if args[0] == "init" {
		return
	}
	if file := flagOf(args, "--token-file"); file != "" {
		if text, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(text)) != fakeToken {
			fmt.Println("cannot join:", string(text), err)
			os.Exit(1)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	socket := filepath.Join(dir, "admin.sock")
	_ = os.Remove(socket) // left by a kill
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: fakeAPI(filepath.Dir(filepath.Dir(dir)), fail != "never ready")}
	go func() { _ = server.Serve(l) }()
	<-ctx.Done()
	_ = server.Close()
}

func flagOf(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// fakeAPI is a cluster of as many agents as the lab has directories; all are voters and a1 leads.
func fakeAPI(labDir string, ready bool) http.Handler {
	agents, _ := filepath.Glob(filepath.Join(labDir, "a*"))
	var members, voters []string
	for _, dir := range agents {
		members = append(members, fmt.Sprintf(`{"name":%q,"state":"alive"}`, filepath.Base(dir)))
		voters = append(voters, fmt.Sprintf(`{"name":%q,"raft_id":"1","healthy":true}`, filepath.Base(dir)))
	}
	core := `{"leader":"a1","voters":[` + strings.Join(voters, ",") + `]}`
	answers := map[string]string{
		"/parley/v1/status":  fmt.Sprintf(`{"ready":%t,"core":%s,"svid":{"not_after":%q}}`, ready, core, fakeExpires.Format(time.RFC3339)),
		"/parley/v1/members": "[" + strings.Join(members, ",") + "]",
		"/parley/v1/core":    core,
		"/parley/v1/token":   fmt.Sprintf(`{"token":%q}`, fakeToken),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, answers[r.URL.Path])
	})
}
