/* Makes the nets of this folder with libfann 2.2.0, and libfann's own answers.  How to run it: README.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fann.h>

#define ROWS 12
static const char *folder;

static float uniform(float low, float high) { return low + (high - low) * (float)(rand() / (RAND_MAX + 1.0)); }

static void print_row(FILE *out, const fann_type *values, unsigned count) {
  for (unsigned i = 0; i < count; i++) fprintf(out, "%.9g ", values[i]);
}

/* NAME.net, and NAME.rows: inputs and answers; with `scaled`, raw ones, through fann_scale_input and fann_descale_output */
static void keep(struct fann *made, const char *name, float range, int scaled) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s.net", folder, name);
  fann_save(made, path);
  struct fann *net = fann_create_from_file(path); /* so that the answers are those of what the file holds */
  snprintf(path, sizeof path, "%s/%s.rows", folder, name);
  FILE *out = fopen(path, "w");
  unsigned inputs = fann_get_num_input(net), outputs = fann_get_num_output(net);
  fann_type *in = calloc(inputs, sizeof *in);
  for (int row = 0; row < ROWS; row++) {
    for (unsigned i = 0; i < inputs; i++) in[i] = uniform(-range, range);
    print_row(out, in, inputs);
    if (scaled) fann_scale_input(net, in);
    fann_type *answer = fann_run(net, in);
    if (scaled) fann_descale_output(net, answer);
    print_row(out, answer, outputs);
    fprintf(out, "\n");
  }
  fclose(out);
  free(in);
  fann_destroy(net);
}

static void set_weights(struct fann *net, float range) {
  unsigned count = fann_get_total_connections(net);
  struct fann_connection *list = calloc(count, sizeof *list);
  fann_get_connection_array(net, list);
  for (unsigned i = 0; i < count; i++) list[i].weight = uniform(-range, range);
  fann_set_weight_array(net, list, count);
  free(list);
}

static struct fann_train_data *curve(unsigned rows) {
  struct fann_train_data *data = fann_create_train(rows, 2, 1);
  for (unsigned i = 0; i < rows; i++) {
    data->input[i][0] = uniform(-1, 1);
    data->input[i][1] = uniform(-1, 1);
    data->output[i][0] = data->input[i][0] * data->input[i][1] > 0.1f ? 1 : 0;
  }
  return data;
}

static void small(void) {
  char name[64];
  for (int kind = 0; kind < 18; kind++) { /* every activation, each neuron with a steepness of its own */
    srand(100 + kind);
    struct fann *net = fann_create_standard(3, 3, 4, 2);
    set_weights(net, 1.5f);
    for (int layer = 1; layer < 3; layer++)
      for (int neuron = 0; neuron < (layer == 1 ? 4 : 2); neuron++) {
        fann_set_activation_function(net, kind, layer, neuron);
        fann_set_activation_steepness(net, uniform(.2f, 1.2f), layer, neuron);
      }
    snprintf(name, sizeof name, "activation_%02d", kind);
    keep(net, name, 1, 0);
  }
  srand(1);
  struct fann *net = fann_create_sparse(0.4f, 4, 6, 9, 7, 3);
  set_weights(net, 1);
  keep(net, "sparse", 1, 0);
  net = fann_create_shortcut(5, 4, 3, 1, 2, 3);
  set_weights(net, 1);
  fann_set_activation_function_layer(net, FANN_ELLIOT_SYMMETRIC, 2);
  keep(net, "shortcut", 1, 0);
  net = fann_create_standard(2, 5, 3);
  set_weights(net, 1);
  keep(net, "one_layer", 1, 0);
  net = fann_create_standard(4, 4, 6, 5, 4); /* an activation for each neuron, outputs among them */
  set_weights(net, 1);
  for (int layer = 1; layer < 4; layer++)
    for (int neuron = 0; neuron < 7 - layer; neuron++) fann_set_activation_function(net, rand() % 18, layer, neuron);
  keep(net, "mixed", 1, 0);
  net = fann_create_standard(3, 4, 5, 3); /* sums past FANN's bound of 150 / steepness */
  set_weights(net, 400);
  fann_set_activation_function_hidden(net, FANN_ELLIOT);
  fann_set_activation_function_output(net, FANN_LINEAR);
  fann_set_activation_steepness_hidden(net, 1);
  keep(net, "large_sums", 1, 0);
  net = fann_create_standard(3, 4, 5, 3); /* so steep that the bound shows in tanh itself */
  set_weights(net, 1);
  fann_set_activation_function_hidden(net, FANN_SIGMOID_SYMMETRIC);
  fann_set_activation_steepness_hidden(net, 100);
  keep(net, "steep", 1, 0);
  net = fann_create_standard(3, 3, 5, 2);
  set_weights(net, 1);
  struct fann_train_data *data = fann_create_train(8, 3, 2);
  for (int i = 0; i < 8; i++) {
    for (int k = 0; k < 3; k++) data->input[i][k] = uniform(-4, 9) * (k + 1);
    for (int k = 0; k < 2; k++) data->output[i][k] = uniform(10, 90);
  }
  fann_set_scaling_params(net, data, -1, 1, 0, 1);
  keep(net, "scaled", 9, 1);
  fann_set_activation_function_output(net, FANN_LINEAR);
  keep(net, "scaled_linear", 9, 1);
  srand(5);
  net = fann_create_shortcut(2, 2, 1);
  data = curve(60);
  fann_set_train_error_function(net, FANN_ERRORFUNC_LINEAR);
  fann_cascadetrain_on_data(net, data, 6, 0, 0.001f);
  keep(net, "cascade", 1, 0);
  net = fann_create_standard(3, 2, 5, 1);
  fann_train_on_data(net, data, 300, 0, 0.001f);
  keep(net, "trained", 1, 0);
  char path[1024];
  snprintf(path, sizeof path, "%s/fixed.net", folder);
  fann_save_to_fixed(net, path);
  snprintf(path, sizeof path, "%s/fixed_shortcut.net", folder);
  fann_save_to_fixed(fann_create_shortcut(3, 3, 2, 2), path);
}

/* The answers of NET to every EVERYth row of DATA */
static void answers(const char *net_path, const char *data_path, int every) {
  struct fann *net = fann_create_from_file(net_path);
  struct fann_train_data *data = fann_read_train_from_file(data_path);
  for (unsigned row = 0; row < data->num_data; row += every) {
    print_row(stdout, data->input[row], data->num_input);
    print_row(stdout, fann_run(net, data->input[row]), data->num_output);
    printf("\n");
  }
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "small")) {
    folder = argv[2];
    small();
  } else if (argc == 5 && !strcmp(argv[1], "answers")) {
    answers(argv[2], argv[3], atoi(argv[4]));
  } else {
    fprintf(stderr, "make_nets small DIR | make_nets answers NET DATA EVERY\n");
    return 2;
  }
  return 0;
}
