package agent

import (
	"context"
	"errors"
	"io"
	"runtime/trace"
	"time"

	"go.uber.org/zap"
)

// flightBytes bounds what the runtime keeps of its own last seconds.
const flightBytes = 8 << 20

var errNoFlight = errors.New("the flight recorder is off (debug.flight_seconds), or another one runs in this process")

// recordFlight keeps the runtime's last seconds until ctx ends: who ran, who waited, and for what.
func (a *Agent) recordFlight(ctx context.Context) error {
	if a.cfg.Debug.FlightSeconds == 0 {
		<-ctx.Done()
		return nil
	}
	f := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: time.Duration(a.cfg.Debug.FlightSeconds) * time.Second, MaxBytes: flightBytes})
	if err := f.Start(); err != nil { // there can be one a process
		a.log.Named("recorder").Warn("the flight recorder is off", zap.Error(err))
		<-ctx.Done()
		return nil
	}
	a.flight.Store(f)
	<-ctx.Done()
	a.flight.Store(nil)
	f.Stop()
	return nil
}

func (a *Agent) writeFlight(w io.Writer) error {
	f := a.flight.Load()
	if f == nil {
		return errNoFlight
	}
	_, err := f.WriteTo(w)
	return err
}
