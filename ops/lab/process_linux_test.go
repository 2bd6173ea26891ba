package lab

import (
	"syscall"
	"testing"
)

// The agents end when the process that runs the lab is killed: the kernel was told so at their start.
func TestDieWithParent(t *testing.T) {
	l := start(t, Options{Agents: 1})
	if got := l.Agents[0].Cmd().SysProcAttr; got.Pdeathsig != syscall.SIGKILL || !got.Setpgid {
		t.Errorf("the agent was started with %+v", got)
	}
}
