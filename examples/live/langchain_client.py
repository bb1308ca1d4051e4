"""LangChain's ChatOpenAI at the endpoint of live mode, which it is not told of.

    pip install langchain-openai
    LIVE_URL=http://127.0.0.1:8400/v1 LIVE_KEY=… python langchain_client.py

It says nothing of duels, so its users are never asked: it would put both responses into one text. A prompt can be
given; the policy of ``make live-demo`` reads prompts such as this one only:
"rich warm : door drum bell rope bridge field stone river =>".
"""

import os
import sys

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=os.environ.get("LIVE_MODEL", "live"),
    base_url=os.environ["LIVE_URL"],
    api_key=os.environ["LIVE_KEY"],
    model_kwargs={"user": "ann"},
)
prompt = sys.argv[1] if len(sys.argv) > 1 else "Can I freeze rice?"

print("invoke:", model.invoke(prompt).content)
print("stream:", "".join(piece.content for piece in model.stream(prompt)))
print("batch:", [answer.content for answer in model.batch([prompt, prompt, prompt])])
