//go:build !linux

package lab

import "syscall"

// dieWithParent has no equivalent here: agents outlive a lab that is killed.
func dieWithParent(*syscall.SysProcAttr) {}
