"""`python -m mlflow_privacy`: the command line where its script is not on the path."""

from mlflow_privacy.cli import main

if __name__ == "__main__":
    main(prog_name="mlflow-privacy")
