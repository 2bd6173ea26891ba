package api

import "context"

// Barrier waits until this agent's View contains all that was acknowledged, anywhere, when it was called. Errors are
// those of a linearizable read.
func (s *Service) Barrier(ctx context.Context) error { return s.catchUp(ctx) }
