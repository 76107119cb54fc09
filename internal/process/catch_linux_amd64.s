#include "textflag.h"

// onSignal is called by the kernel, not by Go: on the signal stack of any thread,
// with the signal in DI, its siginfo in SI and the context in DX. It may use every
// register, because the kernel restores them all, and must call nothing of Go's.
TEXT onSignal<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVL	DI, DI			// sig is an int
	MOVL	$39, AX			// getpid; leaves all but AX, CX and R11 alone
	SYSCALL
	CMPL	AX, ·catchPID(SB)
	JNE	done			// a child of ours before its exec: not for us
	LEAQ	·catchUnread(SB), R8
	LEAQ	(R8)(DI*4), R8
again:
	MOVL	(R8), AX
	CMPL	AX, $16			// catchMax
	JGE	done
	LEAL	1(AX), R9
	LOCK
	CMPXCHGL	R9, (R8)
	JNE	again
	MOVL	$1, AX			// write(catchPipe, siginfo, record)
	MOVL	·catchPipe(SB), DI
	MOVL	$24, DX
	SYSCALL
done:
	RET

// restorer is where onSignal returns to.
TEXT restorer<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVL	$15, AX			// rt_sigreturn
	SYSCALL
	INT	$3			// not reached

TEXT ·handlerPC(SB), NOSPLIT, $0-8
	LEAQ	onSignal<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·restorerPC(SB), NOSPLIT, $0-8
	LEAQ	restorer<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
