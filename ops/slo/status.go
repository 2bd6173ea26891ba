package slo

// Status is one objective as the API shows it. What has no data is null, never good.
type Status struct {
	Name            string              `json:"name"`
	Target          float64             `json:"target"`
	Window          string              `json:"window"`
	SLI             *float64            `json:"sli"`
	BudgetRemaining *float64            `json:"budget_remaining_ratio"`
	Burn            map[string]*float64 `json:"burn"`
	Firing          []string            `json:"firing"`
	Good            uint64              `json:"good"` // events in the window
	Bad             uint64              `json:"bad"`
	TimeScale       float64             `json:"time_scale,omitempty"` // a lab's: windows are this much shorter
}
