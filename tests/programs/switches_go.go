// Goroutines that keep Go's runtime busy on the stacks of threads: it lets their stacks grow, gives them memory, collects that,
// and puts them to sleep and on again.
//
// True stacks:
//
//	runtime.goexit; main.main.func1; main.grows; main.descend; ...      a goroutine lives for one descent
//	runtime.goexit; main.allocates; main.allocate
//	runtime.goexit; main.yields; runtime.Gosched
//	runtime.goexit; runtime.main; main.main
//
// What the runtime does on the stack of a thread begins with the function that went there (runtime.systemstack, runtime.mcall,
// runtime.morestack, ...): no function of main is in such a stack, and nothing is above that function.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const prSetPdeathsig = 1

//go:noinline
func descend(depth int) byte {
	var frame [512]byte
	frame[depth%512] = byte(depth)
	if depth > 0 {
		frame[0] += descend(depth - 1)
	}
	return frame[0] + frame[depth%512]
}

//go:noinline
func grows(done chan<- byte) {
	done <- descend(100)
}

type node struct {
	next *node
	data [3]*int
}

var kept [64]*node

//go:noinline
func allocate(round int) {
	var list *node
	for i := 0; i < 1000; i++ {
		list = &node{next: list, data: [3]*int{new(int), nil, nil}}
	}
	kept[round%len(kept)] = list
}

//go:noinline
func allocates() {
	for round := 0; ; round++ {
		allocate(round)
	}
}

//go:noinline
func yields() {
	for {
		runtime.Gosched()
	}
}

func main() {
	seconds := 10.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	// The death signal belongs to a thread.
	runtime.LockOSThread()
	parent := os.Getppid()
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0)
	if os.Getppid() != parent {
		os.Exit(1)
	}
	go allocates()
	go yields()
	done := make(chan byte)
	fmt.Println("ready")
	end := time.Now().Add(time.Duration(seconds * 1e9))
	for time.Now().Before(end) {
		for i := 0; i < 100; i++ {
			// the compiler makes such a function where arguments are passed
			go func() { grows(done) }()
			<-done
		}
	}
}
