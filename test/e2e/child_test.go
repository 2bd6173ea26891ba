package e2e

import (
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// starts takes processes that are to be started on the one thread that never ends.
var starts = sync.OnceValue(func() chan<- func() {
	requests := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range requests {
			start()
		}
	}()
	return requests
})

// startToDieWithUs starts cmd so that the kernel ends it when the tests end, however they end. The signal is sent when the
// thread that started it ends, and threads that have been in another namespace do, beside any other test.
func startToDieWithUs(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	starts() <- func() { done <- cmd.Start() }
	return <-done
}

// TestStartedOutlivesThreads: what is started to die with us does not die with the thread of who asked for it. Control: what
// that thread starts itself does.
func TestStartedOutlivesThreads(t *testing.T) {
	endOf := func(start func(*exec.Cmd) error) <-chan error {
		cmd, asked, ended := exec.Command("sleep", "60"), make(chan error), make(chan error, 1)
		var onThread func()
		onThread = func() {
			runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine
			if syscall.Gettid() == os.Getpid() {
				go onThread() // but for the first one, which never ends
				<-t.Context().Done()
				return
			}
			asked <- start(cmd)
		}
		go onThread()
		if err := <-asked; err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		go func() { ended <- cmd.Wait() }()
		return ended
	}
	own := endOf(func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd.Start()
	})
	ours := endOf(startToDieWithUs)
	select {
	case err := <-own:
		t.Logf("control: %v", err)
	case <-time.After(10 * time.Second):
		t.Error("control: what a thread started outlived it")
	}
	select {
	case err := <-ours:
		t.Errorf("it died with the thread of who asked for it: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
}
