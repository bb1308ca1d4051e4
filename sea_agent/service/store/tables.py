"""The tables of the store. Times are float seconds UTC; texts are stored as they came.

``labels`` is the append-only log: ``seq`` counts the entries of a run without gaps, in the order of their commits.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
)

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=_NAMES)

OUTCOMES = ("first", "second", "tie", "both_bad")
KINDS = ("vote", "repeat", "gold")
RUN_STATES = ("open", "paused", "closed", "archived")
QUERY_STATES = ("open", "answered", "cancelled", "expired")
LEASE_STATES = ("live", "labelled", "skipped", "released", "expired")

# Written into the statement, not bound to it: only then is a partial index seen to fit.
OPEN: ColumnElement[str] = literal_column("'open'")
LIVE: ColumnElement[str] = literal_column("'live'")


def _where(condition: str) -> dict[str, Any]:
    """Makes an index partial, on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("scopes", Text, nullable=False),  # names, separated by spaces
    Column("runs", Text),  # JSON list of run ids; every run when null
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the key, which itself is never stored
    Column("parent", String(40), ForeignKey("keys.id"), index=True),  # the key that a page session belongs to
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("name", Text, nullable=False),
    Column("instructions", Text, nullable=False),
    Column("votes_needed", Integer, nullable=False),
    Column("repeat_share", Double, nullable=False),
    Column("gold_share", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_seq", BigInteger, nullable=False),  # of the label log
    Column("state", String(10), nullable=False, server_default="open"),
    Column("examples", Text, nullable=False, server_default="[]"),  # JSON list, shown with the instructions
    Column("qualification", Integer, nullable=False, server_default="0"),  # gold duels before the first other one
    Column("qualifying_share", Double, nullable=False, server_default="0.8"),  # of them that must be right
    Column("retention_days", Double),  # after which the texts of duels that are over are erased; null: never
    _one_of("state", RUN_STATES),
)

queries = Table(
    "queries",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),  # age
    Column("id", String(40), nullable=False, unique=True),
    Column("run", String(100), ForeignKey("runs.id"), nullable=False),
    Column("client_key", String(200), nullable=False),
    Column("body_digest", String(64), nullable=False),
    Column("policy_version", BigInteger),
    Column("rule", String(200)),
    Column("score", Double),
    Column("votes_needed", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("expires_at", Double),
    Column("gold", String(10)),  # the right outcome, where it is known
    Column("state", String(10), nullable=False),
    Column("votes", Integer, nullable=False),
    Column("places", Integer, nullable=False),  # votes_needed − votes − live leases: how many more may lease it now
    Column("created_at", Double, nullable=False),
    Column("assigned", Boolean, nullable=False, server_default=false()),  # whether it is in ``assignments``
    Column("erased_at", Double),  # when the texts were erased
    Column("ended_at", Double),  # when it was cancelled, or was found to need no more votes than it has
    # Long texts stand last: SQLite reads a row up to the last column that is asked for.
    Column("prompt", Text, nullable=False),
    Column("first", Text, nullable=False),
    Column("second", Text, nullable=False),
    UniqueConstraint("run", "client_key"),
    _one_of("state", QUERY_STATES),
    CheckConstraint("gold IN ('first', 'second')", name="gold"),
)
Index(
    "ix_queries_waiting",
    queries.c.run,
    queries.c.assigned,
    queries.c.priority.desc(),
    queries.c.places,
    queries.c.number,
    **_where("state = 'open' AND gold IS NULL"),
)
Index(
    "ix_queries_passing",
    queries.c.run,
    queries.c.expires_at,
    **_where("state = 'open' AND expires_at IS NOT NULL"),
)
Index(
    "ix_queries_gold",
    queries.c.run,
    queries.c.number,
    **_where("gold IS NOT NULL"),
)

# A duel that is in it is only for the annotators it names.
assignments = Table(
    "assignments",
    metadata,
    Column("query_id", String(40), ForeignKey("queries.id"), primary_key=True),
    Column("annotator", String(200), primary_key=True),
)
Index("ix_assignments_annotator", assignments.c.annotator)

# The duels of a run that is in it are only for the annotators it names, but for those that are in ``assignments``.
run_assignments = Table(
    "run_assignments",
    metadata,
    Column("run", String(100), ForeignKey("runs.id"), primary_key=True),
    Column("annotator", String(200), primary_key=True),
)

leases = Table(
    "leases",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("query_id", String(40), ForeignKey("queries.id"), nullable=False),
    Column("run", String(100), ForeignKey("runs.id"), nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("number", Integer, nullable=False),  # counts the leases of an annotator in a run
    Column("kind", String(10), nullable=False),
    Column("swapped", Boolean, nullable=False),  # the query's second response was shown first
    Column("state", String(10), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    # The ordinary duel in whose stead a repeat or gold duel is shown; null where it is in nobody's: in a qualification.
    Column("instead_of", String(40), ForeignKey("queries.id")),
    UniqueConstraint("run", "annotator", "number"),
    # An annotator meets a query once as a vote, once as a repeat, once as gold.
    UniqueConstraint("query_id", "annotator", "kind"),
    _one_of("kind", KINDS),
    _one_of("state", LEASE_STATES),
)
Index(
    "uq_leases_live",
    leases.c.run,
    leases.c.annotator,
    unique=True,
    **_where("state = 'live'"),
)
Index(
    "ix_leases_instead_of",
    leases.c.instead_of,
    **_where("instead_of IS NOT NULL"),
)
Index(
    "ix_leases_ending",
    leases.c.run,
    leases.c.expires_at,
    **_where("state = 'live'"),
)

labels = Table(
    "labels",
    metadata,
    Column("run", String(100), ForeignKey("runs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(40), nullable=False, unique=True),
    Column("query_id", String(40), ForeignKey("queries.id"), nullable=False),
    Column("lease_id", String(40), ForeignKey("leases.id")),
    Column("annotator", String(200), nullable=False),
    Column("entered_by", String(200), nullable=False),  # name of the key
    Column("kind", String(10), nullable=False),
    Column("outcome", String(10), nullable=False),  # in the query's own order
    Column("swapped", Boolean),  # null where nothing was shown, as in imports
    Column("strength", Integer),
    Column("comment", Text),
    Column("elapsed_ms", Integer),
    Column("late", Boolean, nullable=False),
    Column("revises", String(40)),  # the label that this entry corrects
    Column("body_digest", String(64), nullable=False),
    Column("at", Double, nullable=False),
    _one_of("kind", KINDS),
    _one_of("outcome", OUTCOMES),
)
Index(
    "uq_labels_vote",
    labels.c.query_id,
    labels.c.annotator,
    labels.c.kind,
    unique=True,
    **_where("revises IS NULL"),
)
Index(
    "uq_labels_lease",
    labels.c.lease_id,
    unique=True,
    **_where("revises IS NULL"),
)
Index("ix_labels_annotator", labels.c.run, labels.c.annotator)
# For the foreign keys: a duel or lease that is deleted must not look for its labels among all.
Index("ix_labels_query_id", labels.c.query_id)
Index("ix_labels_lease_id", labels.c.lease_id)
# Partial, so that nobody takes it for a way to what revises nothing, which is nearly everything.
Index(
    "ix_labels_revises",
    labels.c.revises,
    **_where("revises IS NOT NULL"),
)

requests = Table(
    "requests",
    metadata,
    Column("run", String(100), ForeignKey("runs.id"), primary_key=True),
    Column("annotator", String(200), primary_key=True),
    Column("idempotency_key", String(200), primary_key=True),
    Column("body_digest", String(64), nullable=False),
    Column("answer", Text, nullable=False),  # JSON
    Column("created_at", Double, nullable=False),
)

# A row is there while the files of the database may still hold bytes of what was erased.
purges = Table(
    "purges",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("since", Double, nullable=False),
)


def own_answer(query_id: ColumnElement[str], annotator: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    """Holds for the label by which the annotator answered the duel: neither a deliberate repeat nor a correction."""
    return (
        labels.c.query_id == query_id,
        labels.c.annotator == annotator,
        labels.c.kind != "repeat",
        labels.c.revises.is_(None),
    )
