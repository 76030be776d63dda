"""The worker: takes run ids off the queue and trains each in a process of its own."""
