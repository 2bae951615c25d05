"""Command line of prediction: `python -m train_head.predict`."""

from base.command_line import run_app
from train_head.config import PredictConfig
from train_head.predict.classify import predict

if __name__ == "__main__":
    run_app(predict, PredictConfig, "python -m train_head.predict")
