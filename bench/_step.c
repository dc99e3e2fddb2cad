/* Counts the instructions that a program executes between two SIGUSR2 of its own, by stepping through them one at a
 * time: on the real processor, so every instruction set counts, and the same on a quiet machine and on a busy one.
 *
 * Compiled by bench/instructions.py.  Usage: step COUNTS PROGRAM ARGUMENTS...
 * Appends a line to the file COUNTS for each pair of signals.  Only the program's first thread is looked at.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: step COUNTS PROGRAM ARGUMENTS...\n");
        return 2;
    }
    cpu_set_t here; /* both on one core: a step is then a switch, not the waking of another core */
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);
    FILE *counts = fopen(argv[1], "a");
    pid_t child = counts ? fork() : -1;
    if (child < 0) {
        fprintf(stderr, "step: %s\n", strerror(errno));
        return 2;
    }
    if (child == 0) {
        fclose(counts);
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0) execvp(argv[2], argv + 2);
        fprintf(stderr, "step: %s: %s\n", argv[2], strerror(errno));
        _exit(127);
    }
    int status, stepping = 0, started = 0;
    unsigned long long count = 0;
    while (waitpid(child, &status, 0) == child) {
        if (WIFEXITED(status)) return WEXITSTATUS(status);
        if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
        int signal = WSTOPSIG(status);
        if (signal == SIGUSR2) {
            if (stepping) {
                fprintf(counts, "%llu\n", count);
                fflush(counts);
            }
            stepping = !stepping;
            count = 0;
            signal = 0;
        } else if (signal == SIGTRAP && (stepping || !started)) { /* a step, or the exec */
            count += stepping;
            started = 1;
            signal = 0;
        }
        if (ptrace(stepping ? PTRACE_SINGLESTEP : PTRACE_CONT, child, 0, (long)signal) != 0 && errno != ESRCH) {
            fprintf(stderr, "step: ptrace: %s\n", strerror(errno));
            return 2;
        }
    }
    return 2;
}
