package ops

import (
	"time"
)

// A State is where an alert stands. Pending: the condition holds, not yet for long enough.
type State string

// The states.
const (
	StateOK      State = "ok"
	StatePending State = "pending"
	StateFiring  State = "firing"
	StateNoData  State = "no_data"
)

// holdFiring is how long an alert goes on firing when its reading is gone: what is not measured any more
// has not been mended.
const holdFiring = 5 * time.Minute

// A Moment is one point in time: Elapsed (boottime) decides, Wall is shown.
type Moment struct {
	Elapsed time.Duration
	Wall    time.Time
}

// AlertStatus is an alert and where it stands, as the API shows it. Value is null without data.
type AlertStatus struct {
	ID        string    `json:"id"`
	State     State     `json:"state"`
	Severity  Severity  `json:"severity"`
	Value     *float64  `json:"value"`
	Threshold float64   `json:"threshold"`
	Since     time.Time `json:"since"`
	Summary   string    `json:"summary"`
	Runbook   string    `json:"runbook"`
}

// A Transition is an alert that began or ceased to fire.
type Transition struct {
	Alert  Alert
	Firing bool
	Value  float64 // 0 without data
}

// Alarms judges readings, moment after moment. It belongs to one goroutine.
type Alarms struct {
	alerts []Alert
	marks  []alarm
}

// alarm is where one alert stands.
type alarm struct {
	state State
	since Moment // of the state
	value *float64
	seen  time.Duration // when there was data last, while firing
}

// NewAlarms judges the given alerts. Without a reading so far, all are without data.
func NewAlarms(alerts []Alert, now Moment) *Alarms {
	a := &Alarms{alerts: alerts, marks: make([]alarm, len(alerts))}
	for i := range a.marks {
		a.marks[i] = alarm{state: StateNoData, since: now}
	}
	return a
}

// Look judges new readings and returns which alerts began or ceased to fire.
func (a *Alarms) Look(now Moment, r Readings) []Transition {
	var out []Transition
	for i := range a.alerts {
		alert, m := &a.alerts[i], &a.marks[i]
		before := m.state
		m.look(alert, now, r)
		if fires := m.state == StateFiring; fires != (before == StateFiring) {
			t := Transition{Alert: *alert, Firing: fires}
			if m.value != nil {
				t.Value = *m.value
			}
			out = append(out, t)
		}
	}
	return out
}

// Status returns where each alert stands, in the order of the table.
func (a *Alarms) Status() []AlertStatus {
	out := make([]AlertStatus, len(a.alerts))
	for i, alert := range a.alerts {
		m := a.marks[i]
		out[i] = AlertStatus{
			ID: alert.ID, State: m.state, Severity: alert.Severity, Value: m.value, Threshold: alert.Threshold,
			Since: m.since.Wall.UTC(), Summary: alert.Summary, Runbook: alert.Runbook,
		}
	}
	return out
}

func (m *alarm) look(alert *Alert, now Moment, r Readings) {
	held, known := alert.judge(r)
	m.value = nil
	if value, ok := r[alert.Metric]; ok && known {
		m.value = &value
	}
	switch {
	case !known && m.state == StateFiring && now.Elapsed-m.seen < holdFiring:
	case !known:
		m.enter(StateNoData, now)
	case !held:
		m.enter(StateOK, now)
	case m.state == StateFiring:
	case m.state != StatePending && alert.For > 0:
		m.enter(StatePending, now)
	case m.state != StatePending || now.Elapsed-m.since.Elapsed >= alert.For:
		m.enter(StateFiring, now)
	}
	if known {
		m.seen = now.Elapsed
	}
}

func (m *alarm) enter(s State, now Moment) {
	if m.state != s {
		m.state, m.since = s, now
	}
}

// judge reports whether guard and condition hold. A guard that does not hold makes the condition false
// whatever the reading is.
func (a *Alert) judge(r Readings) (held, known bool) {
	if a.Guard != nil {
		if held, known := a.Guard.holds(r); !held {
			return false, known
		}
	}
	return a.Condition.holds(r)
}
