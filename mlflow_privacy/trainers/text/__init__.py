"""Language models and text classifiers of transformers, whole or with adapters of peft."""
