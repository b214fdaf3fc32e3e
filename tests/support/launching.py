"""The words that start two processes on this machine, as a user would."""

LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
    "--num_processes",
    "2",
]
