package api

import "math/rand/v2"

// headerRetryAfter goes with every 429.
const headerRetryAfter = "Retry-After"

// maxRetryAfterSeconds is the longest that we ask a caller to wait for room. The inbox empties in far less than the
// shortest, which the header can name.
const maxRetryAfterSeconds = 3

// retryAfterSeconds is drawn for each refusal, so that those who were refused together do not come back together.
func retryAfterSeconds() int { return 1 + rand.IntN(maxRetryAfterSeconds) } //nolint:gosec // spreads load, guards nothing
