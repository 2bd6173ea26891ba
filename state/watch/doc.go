// Package watch publishes the state's Views and tells those who wait what changed: the watch hub
// for callers on this agent, the change stream for agents outside the core.
//
// The goroutine that owns the state publishes after each Apply; readers take the View without a
// lock, and wait for what they care about:
//
//	hub.Publish(machine.View(), touched)
//
//	view, err := hub.Wait(ctx, watch.Selector{Key: "web/", Prefix: true}, lastRevision)
//
// Signals are levels, not edges: a woken subscriber looks at the newest View, and misses nothing
// by being slow. A subscription is woken only by changes that its selector names.
//
// [Hub.Publish] never blocks: it stores the View, appends the changes to a ring bounded in count
// and bytes, and leaves the waking to the goroutine of [Hub.Run]. Whoever falls out of the ring (a
// follower that was away, the waking goroutine under a flood) starts again from the whole state.
//
// protocol.go and replica.go, the change stream's frames and its receiving side, are pure, and the
// simulator runs them as they are. See [Hub.Stream].
package watch
