package lab

import "syscall"

// dieWithParent has the kernel kill the child when this process ends, however that happens.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
