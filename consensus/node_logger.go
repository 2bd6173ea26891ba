package consensus

import (
	"fmt"

	"go.uber.org/zap"
)

// raftLogger is raft's logger. Raft's "info" is our debug: it narrates elections, and the status
// tells their results. Panics carry the text and are caught by the loop's guard.
type raftLogger struct{ log *zap.SugaredLogger }

func (l raftLogger) Debug(...any)                {}
func (l raftLogger) Debugf(string, ...any)       {}
func (l raftLogger) Info(v ...any)               { l.log.Debug(v...) }
func (l raftLogger) Infof(f string, v ...any)    { l.log.Debugf(f, v...) }
func (l raftLogger) Warning(v ...any)            { l.log.Warn(v...) }
func (l raftLogger) Warningf(f string, v ...any) { l.log.Warnf(f, v...) }
func (l raftLogger) Error(v ...any)              { l.log.Error(v...) }
func (l raftLogger) Errorf(f string, v ...any)   { l.log.Errorf(f, v...) }
func (l raftLogger) Fatal(v ...any)              { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)              { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
