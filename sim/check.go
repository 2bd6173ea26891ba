package sim

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTime bounds the check of one history.
const checkTime = 20 * time.Second

// checkHistories says whether each history is one that its model allows.
func checkHistories(model porcupine.Model, all []*keyHistory) error {
	for _, k := range all {
		if result := porcupine.CheckOperationsTimeout(model, k.ops, checkTime); result != porcupine.Ok {
			return fmt.Errorf("the history of %s (%d operations) is not linearizable: %v", k.key, len(k.ops), result)
		}
	}
	return nil
}

// modelOf makes a model of a step function.
func modelOf[S comparable, I, O any](step func(S, I, O) (bool, S)) porcupine.Model {
	return porcupine.Model{
		Init: func() any { var s S; return s },
		Step: func(s, in, out any) (bool, any) {
			return step(s.(S), in.(I), out.(O)) //nolint:forcetypeassert // ours alone
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
}
