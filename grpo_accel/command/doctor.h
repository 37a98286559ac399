/* The checks of doctor, by what they look at. None of them fails: what is wrong becomes a line. */
#ifndef GA_COMMAND_DOCTOR_H
#define GA_COMMAND_DOCTOR_H

#include "dist/launch.h"
#include "grpo_accel/command/command.h"
#include "grpo_accel/command/examination.h"

/* The launcher's variables: who started this process, and do they agree? False: they contradict each other,
 * so *place_out is not written. */
bool ga_doctor_launcher(ga_examination *e, ga_launch_place *place_out);

/* Cores, GPU devices, limits, /dev/shm. */
void ga_doctor_machine(ga_examination *e);

/* A folder in which segments are published as a run does; where it is not there yet, the one it would be made
 * in. `what` says whose folder it is. */
void ga_doctor_folder(ga_examination *e, const char *what, const char *folder);

/* HDF5 and MPI as this program is linked with them, and whether that MPI is the launcher's. */
void ga_doctor_libraries(ga_examination *e, const ga_launch_place *place);

/* The thread level that MPI gives a process without launcher; in a process of its own. */
void ga_doctor_mpi_alone(ga_examination *e);

/* The same in a process that has joined the ranks. */
void ga_doctor_mpi_joined(ga_examination *e);

/* Functions of provider torch in the PyTorch at e->torch_folder; in a process of its own. */
void ga_doctor_torch(ga_examination *e);

/* The interpreter of `run`: packages, operators, GPU, NCCL; `script` NULL: none, else what it would get. */
void ga_doctor_python(ga_examination *e, const char *program, const char *script);

#endif
