#include "textflag.h"

// onSignal is called by the kernel, not by Go: on the signal stack of any thread,
// with the signal in R0, its siginfo in R1 and the context in R2. It may use every
// register, because the kernel restores them all, and must call nothing of Go's. A
// system call leaves all registers but R0 alone.
TEXT onSignal<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVW	R0, R2
	MOVD	$172, R8		// getpid
	SVC
	MOVW	·catchPID(SB), R3
	CMPW	R3, R0
	BNE	done			// a child of ours before its exec: not for us
	MOVD	$·catchUnread(SB), R4
	ADD	R2<<2, R4
again:
	LDAXRW	(R4), R5
	CMPW	$16, R5			// catchMax
	BGE	done
	ADDW	$1, R5
	STLXRW	R5, (R4), R6
	CBNZ	R6, again
	MOVW	·catchPipe(SB), R0
	MOVD	$24, R2
	MOVD	$64, R8			// write(catchPipe, siginfo, record)
	SVC
done:
	RET

// restorer is where onSignal returns to.
TEXT restorer<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD	$139, R8		// rt_sigreturn
	SVC
	BRK				// not reached

TEXT ·handlerPC(SB), NOSPLIT, $0-8
	MOVD	$onSignal<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET

TEXT ·restorerPC(SB), NOSPLIT, $0-8
	MOVD	$restorer<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET
