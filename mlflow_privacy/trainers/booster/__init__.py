"""Reference models of gradient boosting's native objects: XGBoost's and LightGBM's `Booster`, CatBoost's models."""
