package transport

import "context"

// Priority orders calls when a server runs out of room; lower is more urgent. The last eighth of a
// connection's calls is kept for PriorityHealth and better.
type Priority uint8

const (
	PriorityCore   Priority = 0 // renewal, revocation, the core's own work
	PriorityHealth Priority = 1 // health and status
	PriorityWrite  Priority = 2 // configuration writes; the default
	PriorityRead   Priority = 3 // linearizable reads
	PriorityBulk   Priority = 4 // watches, lists, snapshots
)

type priorityKey struct{}

// WithPriority makes calls under the context carry p. On the server the handler's context has it,
// so a call made while answering another keeps its priority. Above PriorityBulk is PriorityBulk.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, min(p, PriorityBulk))
}

// PriorityOf returns the context's priority, PriorityWrite when none was set.
func PriorityOf(ctx context.Context) Priority {
	if p, ok := ctx.Value(priorityKey{}).(Priority); ok {
		return p
	}
	return PriorityWrite
}
