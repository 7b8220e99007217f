

def test_probabilities_of_mixed_leaves_are_not_clipped_away():
    # A pruned tree says 0.9 of one leaf and 0.97 of another: both must stay apart.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2))
    y = (x[:, 0] + 0.5 * rng.normal(size=2000) > 0).astype(int)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(x, y)
    outputs = model_outputs(tree, Records(x, y, np.arange(2000).astype(str)), task="classification")
    p = tree.predict_proba(x)[np.arange(2000), y]
    inside = (p > 0) & (p < 1)
    np.testing.assert_allclose(outputs.signal[inside], np.log(p[inside]) - np.log1p(-p[inside]), rtol=1e-4)
    assert np.isfinite(outputs.signal).all()
