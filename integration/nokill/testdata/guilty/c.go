package guilty

// #include <signal.h>
import "C"

// InC does it in C.
func InC(pid int) { C.kill(C.int(pid), 0) }
