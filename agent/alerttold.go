package agent

import (
	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/ops"
)

// coreAlerts are those that every agent sees.
var coreAlerts = func() map[string]bool {
	ids := make(map[string]bool)
	for _, alert := range ops.Alerts() {
		if alert.Core {
			ids[alert.ID] = true
		}
	}
	return ids
}()

// alertChanged puts an alert of this agent into the timeline. One about the core fires on every agent at once, and is
// told once: by the leader, who looks at levels (alertChanges). Without a leader each core member tells it, so that
// there are never more lines than members of the core; they are written when there is one again.
func (a *Agent) alertChanged(t ops.Transition) {
	if t.Alert.Core && !tellsCoreAlert(a.core.member() != nil, a.coreStatus().Leader != nil) {
		return
	}
	a.reportAlert(t.Alert.ID, t.Firing, t.Alert.Summary)
}

// tellsCoreAlert says whether an agent tells a change itself, which is the leader's to tell.
func tellsCoreAlert(inCore, leaderKnown bool) bool { return inCore && !leaderKnown }

// alertChanges lists the alerts about the core that the timeline does not have as they stand on the leader: those that
// fire and were not told, and those that were told, by whomever, and are over. Pending and without data say nothing.
func alertChanges(alerts []ops.AlertStatus, last map[string]string) []ops.AlertStatus {
	var changes []ops.AlertStatus
	for _, a := range alerts {
		told := last[a.ID] == api.EventAlert
		if coreAlerts[a.ID] && (a.State == ops.StateFiring && !told || a.State == ops.StateOK && told) {
			changes = append(changes, a)
		}
	}
	return changes
}

// reportAlert puts the beginning or the end of an alert into the timeline.
func (a *Agent) reportAlert(id string, firing bool, summary string) {
	if firing {
		a.timeline.report(api.EventAlert, id, summary)
		return
	}
	a.timeline.report(api.EventResolved, id, "is over: "+summary)
}
