"""Ask a service with aiohttp."""

import argparse
import asyncio

import aiohttp

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("--uri", default="pkcs11:")
parser.add_argument("--cafile")
options = parser.parse_args()


async def main() -> None:
    context = tokenauth.create_context(options.uri, pin=tokenauth.prompt, cafile=options.cafile)
    async with aiohttp.ClientSession() as session, session.get(options.url, ssl=context) as answer:
        print(await answer.text())


asyncio.run(main())
