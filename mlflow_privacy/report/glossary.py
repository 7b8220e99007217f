"""The words of a report, for readers who are no statisticians."""

GLOSSARY = (
    ("Record", "One row of the data: what is known of one person or event at one time."),
    ("Member, non-member", "A record that the model was trained on; one from the same source that it was not."),
    (
        "Membership inference",
        "An attempt to tell, with a record in hand and the model to ask, whether the record was in its training data.",
    ),
    (
        "Attack",
        "One way to do so. It gives each record a score; the higher, the surer that the record was used in training. "
        "RMIA, LiRA, Population and so on are names of attacks.",
    ),
    (
        "Reference model",
        "A model like the audited one, trained on other random parts of the same data. It shows how an answer looks "
        "with and without a record, as an attacker could find out who has similar data.",
    ),
    (
        "False alarm, FPR",
        "A non-member that the attacker takes for a member. The false-positive rate (FPR) is how many of 100 "
        "non-members that happens to; the attacker chooses it by how sure he wants to be.",
    ),
    ("Recognised, TPR", "A member that the attacker takes for one; of 100 members, the true-positive rate (TPR)."),
    (
        "AUC",
        "Shown one member and one non-member, how often the attacker picks the right one: 0.5 is guessing, 1 always.",
    ),
    (
        "Interval, [low, high]",
        "The true figure lies between the two with the stated confidence, such as 95 %. More records make it narrower.",
    ),
    (
        "Not resolvable",
        "There are too few non-members to measure so low a rate. It does not mean that nobody is recognised.",
    ),
    (
        "Blind baseline",
        "A classifier that sees the records and never the model. If it tells members from non-members, the two differ "
        "in themselves, and the attacks' success is not the model's fault alone.",
    ),
    ("Population", "Further records from the same source, which help an attacker to know what is usual."),
    ("Pool", "All members and non-members together."),
    (
        "Digest",
        "A number computed from all values of the data. Equal data have equal digests, so it shows that the data read "
        "are the data that were logged.",
    ),
    ("Recipe", "How the audited model was trained, as far as it is known; reference models are trained by it."),
)
