# shellcheck shell=bash disable=SC2034
# Where jobs run. Sourced by asr.sh.
cmd_backend=local  # local: on this machine; slurm: through sbatch and srun
sbatch_cpu_options=  # slurm: such as "--partition cpu --cpus-per-task 2 --mem 8G"
sbatch_gpu_options=  # slurm: such as "--partition gpu --mem 32G"
requeue_warning_s=120  # slurm: seconds before the time limit at which a training saves and is submitted again
