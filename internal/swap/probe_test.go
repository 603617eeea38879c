package swap
import ("testing";"time")
func TestX(t *testing.T) {
	for i := range 3 {
	r := newRig(t)
	r.offer(t, "a1", "v2", 2, release2)
	s := time.Now()
	if i == 0 { r.step(t, "swap"); t.Log(time.Since(s)); continue }
	r.trace(t, "swap", 0)
	t.Log(time.Since(s))
	r.step(t, "rollback")
	t.Log(time.Since(s))
	}
}
