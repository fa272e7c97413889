"""What a grid may name: networks, optimizers, schedules, losses, speed levers, devices, and plug-ins."""
