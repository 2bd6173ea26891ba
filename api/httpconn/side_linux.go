package httpconn

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// side is one direction of a connection, with its deadline.
type side struct {
	run  func(func(fd uintptr) bool) error // RawConn.Read or Write: runs it when the socket may be ready, until it says true
	tell func(time.Time) error             // gives the poller its deadline

	mu      sync.Mutex // nothing is called under it but tell, which does not wait
	wanted  time.Time  // what was asked for; zero is never, here and below
	told    time.Time  // what the poller knows
	waiting bool       // a call is in the poller, or goes there
	fresh   bool       // nothing was done since wanted was set
}

// set remembers a deadline. Whoever waits already is to have it now.
func (s *side) set(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted, s.fresh = t, true
	if s.waiting {
		return s.hurry()
	}
	return nil
}

// hurry tells the poller when it would wake too late. Its caller holds mu.
func (s *side) hurry() error {
	if s.wanted.IsZero() || !s.told.IsZero() && !s.wanted.Before(s.told) {
		return nil
	}
	s.told = s.wanted
	return s.tell(s.told)
}

// tellNow sets the poller's deadline alone.
func (s *side) tellNow(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = t
	_ = s.tell(t) // fails when the connection is closed, which the next call will say
}

// takeNever says, once, that a deadline of never was set since the last call.
func (s *side) takeNever() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	never := s.fresh && s.wanted.IsZero()
	s.fresh = s.fresh && !never
	return never
}

// do runs attempt whenever the socket may be ready, until it says true or the deadline passes.
func (s *side) do(attempt func(fd uintptr) bool) error {
	for {
		if s.passed() {
			return os.ErrDeadlineExceeded
		}
		err := s.run(attempt)
		s.mu.Lock()
		s.waiting = false
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			s.mu.Unlock()
			return err
		}
		s.told = s.wanted // it was the deadline of some call before, or is this one's and has passed
		_ = s.tell(s.told)
		s.mu.Unlock()
	}
}

func (s *side) passed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = false
	return !s.wanted.IsZero() && !time.Now().Before(s.wanted)
}

// again is what an attempt returns for the error of its system call: false lets it wait.
func (s *side) again(err error) (done bool) {
	if err == nil || !errors.Is(err, syscall.EAGAIN) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = true
	_ = s.hurry() // as in tellNow
	return false
}
