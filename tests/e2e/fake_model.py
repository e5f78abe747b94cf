"""An OpenAI-compatible server that only pretends to be a model: its latency, capacity and
quality are what they are told to be. Standard library alone.

    python3 fake_model.py --first 0.2 --between 0.01 --tokens 8 --capacity 4 --quality 0.9

prints its port on a line of its own. Its answer's first word is "right", in a share of
--quality of the answers, or "wrong"; then come "word"s. With --spread S the first token takes from
--first to --first + S seconds, evenly.
"""

import argparse
import asyncio
import json
import random


def parse_args():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--first", type=float, default=0.0, help="seconds to the first token")
    p.add_argument("--spread", type=float, default=0.0)
    p.add_argument("--between", type=float, default=0.0, help="seconds between two tokens")
    p.add_argument("--tokens", type=int, default=4)
    p.add_argument("--capacity", type=int, default=1000, help="requests at a time; others wait")
    p.add_argument("--quality", type=float, default=1.0)
    return p.parse_args()


class Model:
    def __init__(self, args):
        self.args = args
        self.random = random.Random(1)
        self.places = asyncio.Semaphore(args.capacity)

    async def read_request(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        body = await reader.readexactly(length)
        return head.split(b" ", 2)[0], json.loads(body or b"{}")

    async def serve(self, reader, writer):
        try:
            while True:
                method, body = await self.read_request(reader)
                if method == b"GET":
                    await self.reply(writer, b'{"object":"list","data":[]}')
                else:
                    async with self.places:
                        await self.answer(writer, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(self, writer, body):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        await writer.drain()

    def words(self):
        yield "right" if self.random.random() < self.args.quality else "wrong"
        for _ in range(self.args.tokens - 1):
            yield " word"

    async def answer(self, writer, body):
        usage = {"prompt_tokens": 20, "completion_tokens": self.args.tokens, "total_tokens": 0}
        wait = self.args.first + self.args.spread * self.random.random()
        if not body.get("stream"):
            await asyncio.sleep(wait + self.args.between * (self.args.tokens - 1))
            message = {"role": "assistant", "content": "".join(self.words())}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            head = {"id": "fake", "object": "chat.completion", "created": 1, "model": "fake"}
            await self.reply(writer, json.dumps({**head, "choices": [choice], "usage": usage}).encode())
            return

        async def send(choices, **more):
            head = {"id": "fake", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
            text = b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(text), text))
            await writer.drain()

        await asyncio.sleep(wait)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for word in self.words():
            await send([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            await asyncio.sleep(self.args.between)
        await send([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        await send([], usage=usage)
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))
        await writer.drain()


async def main():
    args = parse_args()
    server = await asyncio.start_server(
        Model(args).serve, "127.0.0.1", args.port, limit=1 << 20, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
