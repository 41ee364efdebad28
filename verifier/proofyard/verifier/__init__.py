"""The verifier: schedules a job's tasks, collects commitments, draws and judges audits, settles, and shows it all."""
