"""infra starts what the flows talk to: S3, MLflow and Prefect on loopback."""
