#!/usr/bin/env python3
"""Time to first token of a chat whose system prompt was computed before.

    bench/prefix_cache.py [--model models/sample-moe] [--system 1900] [--rounds 9]

Each round has a system prompt of its own, of about so many tokens. It is asked four
things, streaming, at a server with the prefix cache and, taking turns, at one without:

  first    the system prompt and a question
  second   the same system prompt and another question
  turn     the second chat, its answer and one question more
  tenant   the second chat with another cache_salt, which must find nothing

The time is that from sending the request to the first text. Ends with 1 where the second
takes more than --most of the first (default 0.1), a salt shares, or texts differ.
"""

import argparse
import http.client
import json
import random
import sys
import time

from harness import ROOT, Failed, Server, cell, median, say, table

WORDS = ("the a of and to in is was that for on with as by at from it an be this which or are "
         "not have one all were when we there can more if no man out so what time up go about than "
         "into could state only new year some take come these know see use get like then first any "
         "work now may such give over think most even find day also after way many must look before "
         "great back through long where much should well people down own just because good each those "
         "feel seem how high too place little world very still nation hand old life tell write become "
         "here show house both between need mean call develop under last right move thing general "
         "school never same another begin while number part turn real leave might want point form off "
         "child few small since against ask late home interest large person end open public follow "
         "during present without again hold govern around possible head consider word program problem "
         "however lead system set order eye plan run keep face fact group play stand increase early "
         "course change help line").split()
# A generated model has no chat template of its own.
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
            "<assistant>")


def ask(port, messages, tokens, salt):
    """(seconds to the first text, the text, prompt tokens, cached tokens)"""
    body = json.dumps({
        "model": "m", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True,
        "ignore_eos": True, "cache_salt": salt, "stream_options": {"include_usage": True}})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.connect()
    sent, first, text, usage = time.perf_counter(), None, "", None
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise Failed(f"HTTP {response.status}: {response.read()[:200]}")
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices", []):
            if "content" in choice["delta"] and choice["delta"].get("role") is None:
                first = first or time.perf_counter() - sent
                text += choice["delta"]["content"]
        usage = event.get("usage") or usage
    return first, text, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def system_prompt(port, rng, tokens):
    """Words of about so many tokens; how many a word takes is asked of the server."""
    words = [rng.choice(WORDS) for _ in range(tokens)]
    some = words[:tokens // 8]
    count = lambda text: ask(port, [{"role": "system", "content": text}], 1, "count")[2]
    empty = count("")
    return " ".join(words[:int(len(some) * tokens / (count(" ".join(some)) - empty))])


def chats(port, system, tokens):
    """[(name, seconds, text, prompt tokens, cached)] of one round."""
    question = lambda text: [{"role": "system", "content": system}, {"role": "user", "content": text}]
    out = [("first", *ask(port, question("Who are you?"), tokens, ""))]
    second = question("What is 7 plus 5?")
    out.append(("second", *ask(port, second, tokens, "")))
    turn = [*second, {"role": "assistant", "content": out[-1][2]}, {"role": "user", "content": "Why?"}]
    out.append(("turn", *ask(port, turn, tokens, "")))
    out.append(("tenant", *ask(port, second, tokens, "another")))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--model", default=str(ROOT / "models/sample-moe"))
    p.add_argument("--memory", default="4GiB")
    p.add_argument("--threads", default="2")
    p.add_argument("--system", type=int, default=1900,
                   help="tokens of the system prompt (default 1900: sample-moe has 2048)")
    p.add_argument("--tokens", type=int, default=4, help="of an answer (default 4)")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--template", action="store_true", help="the model has no chat template: use a plain one")
    p.add_argument("--most", type=float, default=0.1)
    p.add_argument("--json", metavar="FILE", help="write the raw numbers there")
    args = p.parse_args()

    command = [args.hostler, "serve", "--model", f"m={args.model}", "--port", "{port}", "--grpc-port",
               "off", "--threads", args.threads, "--memory", args.memory, "--log-level", "warn"]
    if args.template:
        path = ROOT / "build/prefix_cache_template.jinja"
        path.write_text(TEMPLATE)
        command += ["--chat-template", str(path)]
    runs = {"on": [], "off": []}
    rng = random.Random(1)
    wrong = 0
    with Server(command, 1500) as on, Server([*command, "--prefix-cache", "off"], 1500) as off:
        servers = {"on": on, "off": off}
        for server in servers.values():
            server.wait_ready(120)
            chats(server.port, "Wake up. " * 50, args.tokens)
        for i in range(args.rounds):
            system = system_prompt(off.port, rng, args.system)
            for name in sorted(servers, reverse=i % 2):
                runs[name].append(chats(servers[name].port, system, args.tokens))
            same = [a[2] == b[2] for a, b in zip(runs["on"][-1], runs["off"][-1])]
            wrong += same.count(False)
            say(f"round {i + 1} of {args.rounds}: {runs['on'][-1][0][3]} tokens")
        counters = on.counters()
    rows, medians = [], {}
    for i, (what, *_) in enumerate(runs["on"][0]):
        row = [what]
        for name, rounds in runs.items():
            medians[name, what] = median([chat[i][1] for chat in rounds])
            of_first = median([chat[i][1] / chat[0][1] for chat in rounds])
            row += [cell(medians[name, what] * 1000, 1), cell(of_first * 100, 1, "%")]
        row += [median([chat[i][3] for chat in runs["on"]]), median([chat[i][4] for chat in runs["on"]])]
        rows.append(row)
    print(f"\n{args.model}: medians of {args.rounds} rounds; texts that differ: {wrong}; hits "
          f"{counters['prefix_cache_hits_total'] / counters['prefix_cache_queries_total']:.1%} of prompt tokens\n")
    table(["chat", "on, ms", "of first", "off, ms", "of first", "prompt tokens", "of them found"], rows)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(runs, f)
    share = median([chat[1][1] / chat[0][1] for chat in runs["on"]])
    leaked = any(chat[3][4] for chat in runs["on"])
    sys.exit(1 if share > args.most or leaked or wrong else 0)


if __name__ == "__main__":
    main()
