// Faults: what went wrong, written once to the control page as evidence, and the end of the process.
//
// The record is for a person to read. The judge learns from how the process ended that it failed, never from here.

#pragma once

#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "confine.h"
#include "control.h"
#include "fiber.h"

namespace kforge {

// Where the operating system thread is: copied into the record.
struct Place {
    uint32_t x, y, z;
    uint32_t lane;
};

inline Control* control_page = nullptr;

// Of this operating system thread, for the signal handler.
struct FaultContext {
    const StackPool* stacks;
    const char* shared_end;  // the guard behind dynamic shared memory
    size_t shared_guard_bytes;
    const uint32_t* block;   // three indices
    const uint32_t* thread;  // three indices
};
static __thread FaultContext fault_context;

// Told of a fault that is about to be recorded, where a graver one may be behind it.
inline void (*before_fault)(FaultKind kind) = nullptr;

// Only the first fault is recorded: the others are mostly its consequences.
inline bool claim_fault() {
    static uint32_t claimed = 0;
    return control_page != nullptr && __atomic_exchange_n(&claimed, 1, __ATOMIC_ACQ_REL) == 0;
}

inline void record_place(Control::Fault& fault) {
    if (fault_context.block != nullptr) memcpy(fault.block, fault_context.block, sizeof(fault.block));
    if (fault_context.thread != nullptr) memcpy(fault.thread, fault_context.thread, sizeof(fault.thread));
}

inline __attribute__((format(printf, 2, 0))) void record_fault(FaultKind kind, const char* format, va_list arguments) {
    if (before_fault != nullptr) before_fault(kind);
    if (claim_fault()) {
        Control::Fault& fault = control_page->fault;
        record_place(fault);
        vsnprintf(fault.message, sizeof(fault.message), format, arguments);
        fflush(stdout);
        __atomic_store_n(&fault.kind, kind, __ATOMIC_RELEASE);
    } else if (control_page != nullptr) {
        // Another thread is writing the record, and will end the process.
        for (int waited = 0; waited < 1000 && control_page->fault.kind == FAULT_NONE; ++waited) usleep(100);
    }
}

// For what the runtime finds itself. The exit code tells the judge that there is a record.
[[noreturn]] inline __attribute__((format(printf, 2, 3))) void fail(FaultKind kind, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(kind, format, arguments);
    va_end(arguments);
    _exit(FAULT_EXIT_CODE);
}

// For a kernel that stops itself.
[[noreturn]] inline __attribute__((format(printf, 1, 2))) void abort_kernel(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(FAULT_SIGNAL, format, arguments);
    va_end(arguments);
    raise(SIGABRT);
    _exit(FAULT_EXIT_CODE);
}

// Ends the process by a signal that was handled, although no handler can be changed any more.
inline void end_by(int signal, const siginfo_t* info, [[maybe_unused]] void* context) {
#if defined(__linux__)
    if (signal == SIGABRT || signal == SIGTRAP) {
        // Its handler is gone by now.
        raise(signal);
    } else if (signal == SIGSYS) {
        // A refused call whose signal is blocked ends the process by it.
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGSYS);
        sigprocmask(SIG_BLOCK, &blocked, nullptr);
        system_call(__NR_getppid);
    } else if (info->si_code > 0) {
        // So does a fault: returning repeats it.
        sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, signal);
        return;
    }
    // Sent by somebody.
    _exit(FAULT_EXIT_CODE);
#else
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
    if (info->si_code <= 0 || signal == SIGTRAP) raise(signal);
#endif
}

// Nothing here may call what a signal handler may not.
inline void on_signal(int signal, siginfo_t* info, [[maybe_unused]] void* context) {
    if (claim_fault()) {
        Control::Fault& fault = control_page->fault;
        const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
        const FaultContext& where = fault_context;
        const uintptr_t shared_end = reinterpret_cast<uintptr_t>(where.shared_end);
        FaultKind kind = FAULT_SIGNAL;
        const char* message = "";
        if (signal == SIGSEGV || signal == SIGBUS) {
            fault.address = address;
            if (where.stacks != nullptr && where.stacks->in_guard(address)) {
                kind = FAULT_STACK_OVERFLOW;
                message = "a thread needs more than 64 KiB of stack for its local variables";
            } else if (shared_end != 0 && address >= shared_end && address < shared_end + where.shared_guard_bytes) {
                kind = FAULT_SHARED_BOUNDS;
                message = "an access behind the end of dynamic shared memory";
            } else if (info->si_code > 0 && address == 0 && info->si_code != SEGV_MAPERR && info->si_code != SEGV_ACCERR) {
                message = "a misaligned vector access or a wild pointer";
            }
        } else if (signal == SIGFPE) {
            message = "an integer was divided by zero, or the quotient does not fit";
#if defined(__linux__)
        } else if (signal == SIGSYS) {
            fault.address = static_cast<uint64_t>(info->si_syscall);
#endif
        }
        record_place(fault);
#if defined(__x86_64__) && defined(__linux__)
        // Behind the instruction's first byte, as a return address lies behind its call.
        if (info->si_code > 0) fault.site = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]) + 1;
#endif
        fault.signal = static_cast<uint32_t>(signal);
        // abort() and failed assertions have said more already.
        if (fault.message[0] == 0) strncpy(fault.message, message, sizeof(fault.message) - 1);
        __atomic_store_n(&fault.kind, kind, __ATOMIC_RELEASE);
    } else if (control_page != nullptr) {
        // Another thread is writing the record, and will end the process.
        for (int waited = 0; waited < 1000 && control_page->fault.kind == FAULT_NONE; ++waited) usleep(100);
    }
    end_by(signal, info, context);
}

inline void handle_signals() {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_signal;
    sigemptyset(&action.sa_mask);
    constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGABRT, SIGTRAP};
    for (int signal : SIGNALS) {
        // These two are sent again rather than repeated.
        const bool once = signal == SIGABRT || signal == SIGTRAP;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (once ? SA_RESETHAND : 0);
        sigaction(signal, &action, nullptr);
    }
}

// A stack overflow leaves no stack to handle it on.
inline void handle_signals_apart(void* stack, size_t bytes) {
    stack_t alternate;
    memset(&alternate, 0, sizeof(alternate));
    alternate.ss_sp = stack;
    alternate.ss_size = bytes;
    sigaltstack(&alternate, nullptr);
}

}  // namespace kforge
