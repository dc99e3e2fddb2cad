/* libfann as a contestant of bench/peers.py: loops fann_run, which takes one row at a time.
 *
 * Compiled by bench/peers.py with gcc and linked to Debian's libfloatfann.  Usage: peers_fann CASE.bin
 * CASE.bin, all 32 bits, little endian: layers L of neurons, L widths, L-1 activations (enum fann_activationfunc_enum),
 * rows of input, rows of a batch; then floats: weights neuron by neuron, each followed by its bias; the rows.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <fann.h>

static long long now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *read_all(FILE *file, size_t size, size_t count) {
    void *to = malloc(size * count);
    if (!to || fread(to, size, count, file) != count) {
        fprintf(stderr, "peers_fann: the case ends too early\n");
        exit(2);
    }
    return to;
}

int main(int argc, char **argv) {
    FILE *file = argc >= 2 ? fopen(argv[1], "rb") : NULL;
    if (!file) {
        fprintf(stderr, "usage: peers_fann CASE.bin\n");
        return 2;
    }
    unsigned layers = *(unsigned *)read_all(file, 4, 1);
    if (layers < 2 || layers > 64) return 2;
    unsigned *widths = read_all(file, 4, layers), *functions = read_all(file, 4, layers - 1);
    unsigned *counts = read_all(file, 4, 2), rows = counts[0], batch = counts[1];
    if (!rows || batch > rows) return 2;
    struct fann *net = fann_create_standard_array(layers, widths);
    if (!net) return 2;
    for (unsigned i = 1; i < layers; i++) fann_set_activation_function_layer(net, functions[i - 1], i);
    fann_set_activation_steepness_hidden(net, 0.5f); /* its sigmoid is 1 / (1 + e^(-2 s x)) */
    fann_set_activation_steepness_output(net, 0.5f);
    for (unsigned i = 1; i < layers; i++)
        if (functions[i - 1] != FANN_SIGMOID) fann_set_activation_steepness_layer(net, 1.0f, i);
    unsigned total = fann_get_total_connections(net);
    float *weights = read_all(file, 4, total);
    memcpy(net->weights, weights, 4 * (size_t)total);
    float *input = read_all(file, 4, (size_t)rows * widths[0]);
    unsigned outputs = widths[layers - 1];
    fclose(file);
    printf("ready libfann 2.2 (Debian), float, fann_run\n");
    fflush(stdout);

    char line[4096], path[4096];
    volatile float keep = 0;
    while (fgets(line, sizeof line, stdin)) {
        long long warm, count;
        const int marks = strncmp(line, "count ", 6) == 0;
        if (sscanf(line, marks ? "count %lld %lld" : "run %lld %lld", &warm, &count) == 2) {
            for (long long i = 0; i < warm; i++)
                for (unsigned row = 0; row < batch; row++) keep = fann_run(net, input + (size_t)row * widths[0])[0];
            if (marks) raise(SIGUSR2);
            long long cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC);
            for (long long i = 0; i < count; i++)
                for (unsigned row = 0; row < batch; row++) keep = fann_run(net, input + (size_t)row * widths[0])[0];
            cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu, wall = now_ns(CLOCK_MONOTONIC) - wall;
            if (marks) raise(SIGUSR2);
            printf("ns %lld %lld\n", cpu, wall);
        } else if (sscanf(line, "answers %4000s", path) == 1) {
            FILE *out = fopen(path, "wb");
            for (unsigned row = 0; out && row < rows; row++)
                fwrite(fann_run(net, input + (size_t)row * widths[0]), 4, outputs, out);
            printf(out && !fclose(out) ? "ok\n" : "no such file\n");
        } else {
            printf("what?\n");
        }
        fflush(stdout);
    }
    (void)keep;
    return 0;
}
