"""A seed client on Python's `websockets`: sends one message, and prints what it gets as JSON lines until it is told to stop.

Usage: client.py URL CHAT CONTENT UNTIL
Ends with 0 when a message with the content UNTIL has come.
"""

import asyncio
import json
import sys

import websockets


async def main(url: str, chat: int, content: str, until: str) -> None:
    async with websockets.connect(url) as ws:
        await ws.send(json.dumps({"type": "message", "chat_id": chat, "content": content, "media_url": None}))
        async for text in ws:
            print(text, flush=True)
            frame = json.loads(text)
            if frame["type"] == "message" and frame["content"] == until:
                return
    sys.exit("the connection ended too early")


asyncio.run(asyncio.wait_for(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]), 30))
