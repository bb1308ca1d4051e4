"""The tables of live mode: what users asked and were answered, what they said of it, and which weights served them.

A live duel is a row of ``queries`` whose ``client_key`` is the completion's id and which is assigned to its user, and a
choice is an entry of ``labels``, so that counts, quality and exports treat both like all others.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    false,
    select,
    true,
)

from sea_agent.service.store.tables import _one_of, _where, metadata

COMPLETION_STATES = ("begun", "done", "failed")
ASKED = ("duel", "audit")
SIDES = ("first", "second")
FEEDBACK_KINDS = ("choice", "thumbs", "edit", "used")
PUBLICATION_STATES = ("offered", "canary", "live", "retired", "rejected", "withdrawn")

completions = Table(
    "completions",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),  # age
    Column("id", String(40), nullable=False, unique=True),
    Column("run", String(100), ForeignKey("runs.id"), nullable=False),
    Column("user_hash", String(64)),  # keyed hash of the user's id; null where the app names nobody
    Column("conversation", String(64), nullable=False),  # digest of its first messages and its user
    Column("key_id", String(40), ForeignKey("keys.id"), nullable=False),  # who may give feedback on it
    Column("idempotency_key", String(200)),
    Column("body_digest", String(64), nullable=False),
    Column("state", String(10), nullable=False),
    Column("stored", Boolean, nullable=False),  # false: counts only, no text (``store: false``)
    Column(
        "heldout", Boolean, nullable=False, server_default=false()
    ),  # its conversation is for the gate, never learnt
    Column("eligible", Boolean, nullable=False, server_default=false()),  # whether a duel could have been asked
    Column("asked", String(10)),  # null: one response was shown
    Column("query_id", String(40), ForeignKey("queries.id")),  # of an audit, ``first`` is the live policy's response
    Column("by_chance", Boolean, nullable=False, server_default=false()),  # nothing else chose what a user sees first
    Column("information", Double),  # nats that the answer is expected to tell the posterior, where it was computed
    Column("regret", Double),  # posterior mean of the best reward less the mean of those shown
    Column("policy_version", BigInteger),  # the oldest among the tokens shown
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("created_at", Double, nullable=False),
    Column("first_token_at", Double),
    Column("done_at", Double),
    Column("erased_at", Double),
    Column("erasure", Integer),  # which of the run's erasures took its texts
    # Long texts stand last: SQLite reads a row up to the last column that is asked for.
    Column("messages", Text, nullable=False),  # JSON list of role and content: those that the policy read
    Column("prompt", Text, nullable=False),  # JSON object: text, token_ids
    Column(
        "responses", Text, nullable=False
    ),  # JSON list, those shown first: id, text, token_ids, logprobs, policy_version
    Column("answer", Text, nullable=False),  # JSON body of the reply, for a replay; empty while it is begun
    _one_of("state", COMPLETION_STATES),
    _one_of("asked", ASKED),
)
Index("ix_completions_run_number", completions.c.run, completions.c.number)
Index("ix_completions_user", completions.c.run, completions.c.user_hash, completions.c.number)
Index("ix_completions_query_id", completions.c.query_id)
Index("ix_completions_asked", completions.c.run, completions.c.conversation, **_where("asked IS NOT NULL"))
Index("ix_completions_created_at", completions.c.run, completions.c.created_at)
Index("ix_completions_kept", completions.c.run, completions.c.created_at, **_where("erased_at IS NULL"))
Index("ix_completions_erasure", completions.c.run, completions.c.erasure, **_where("erasure IS NOT NULL"))
Index(
    "uq_completions_idempotency",
    completions.c.key_id,
    completions.c.idempotency_key,
    unique=True,
    **_where("idempotency_key IS NOT NULL"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("completion_id", String(40), ForeignKey("completions.id"), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("value", Text, nullable=False),  # JSON body as it came
    Column("body_digest", String(64), nullable=False),
    Column("is_current", Boolean, nullable=False, server_default=true()),  # false: corrected since
    Column("at", Double, nullable=False),
    _one_of("kind", FEEDBACK_KINDS),
)
Index(
    "uq_feedback_current",
    feedback.c.completion_id,
    feedback.c.kind,
    unique=True,
    **_where("is_current"),
)

Index("ix_feedback_completion_id", feedback.c.completion_id)

# Which side a conversation went on with, of a duel that its user had not answered.
implicit_choices = Table(
    "implicit_choices",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("completion_id", String(40), ForeignKey("completions.id"), nullable=False, unique=True),
    Column("outcome", String(10), nullable=False),  # in the order shown
    Column("at", Double, nullable=False),
    _one_of("outcome", SIDES),
)

# Weights that were published. A version is never given twice, even if its run is deleted.
publications = Table(
    "publications",
    metadata,
    Column("version", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run", String(100), ForeignKey("runs.id"), nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("round", Integer, nullable=False),
    Column("labels", Integer, nullable=False),  # answers that the policy has learnt from
    Column("path", Text, nullable=False),  # directory of the weights, as engines see it; empty when they are gone
    Column("state", String(10), nullable=False),
    Column("reason", Text, nullable=False),  # of its state, for the operator
    Column("report", Text, nullable=False),  # JSON object: the gate's figures
    Column("created_at", Double, nullable=False),
    Column("decided_at", Double),
    _one_of("state", PUBLICATION_STATES),
    sqlite_autoincrement=True,
)
Index("ix_publications_run_version", publications.c.run, publications.c.version)
Index(
    "uq_publications_live",
    publications.c.run,
    unique=True,
    **_where("state = 'live'"),
)

live_users = Table(
    "live_users",
    metadata,
    Column("run", String(100), ForeignKey("runs.id"), primary_key=True),
    Column("user_hash", String(64), primary_key=True),
    Column("asks", Boolean, nullable=False, server_default=true()),  # false: "don't ask me"
    Column("tokens", Double, nullable=False),  # of the bucket that limits how often they are asked
    Column("since", Double, nullable=False),  # when ``tokens`` was counted
    Column("erased_at", Double),
)

live_runs = Table(
    "live_runs",
    metadata,
    Column("run", String(100), ForeignKey("runs.id"), primary_key=True),
    Column("secret", String(64), nullable=False),  # key of the users' hashes
    Column("frozen", Boolean, nullable=False, server_default=false()),  # the gate promotes nothing
    Column("erasures", Integer, nullable=False, server_default="0"),  # each took texts of 1,000 completions at most
    Column("forced", BigInteger),  # the version that an operator let go live, while it is
)
OF_LIVE_MODE = select(live_runs.c.run)
"""The runs whose duels users answer at an endpoint; no annotator does."""

EXPORTED = (
    completions.c.id.label("completion"),
    completions.c.user_hash,
    completions.c.policy_version,
    completions.c.messages,
    completions.c.responses,
)
"""What exports tell of a completion."""
