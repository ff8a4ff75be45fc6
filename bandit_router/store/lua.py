"""What RedisStore asks of the server: each script is one atomic step.

Keys: `head` (hash), `stream` (of deltas), `keys` (sorted set of the deltas beyond the watermark), `snapshot`
(hash) and `lease` (string). A script answers with a list whose first element says what follows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

FORMAT = 1  # of the keys together


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the name under which servers remember it."""

    source: str
    sha: str

    @classmethod
    def of(cls, body: str, *, mends: bool = False) -> Script:
        """Return a script that looks at the router's head first, and ends there unless it mends damage."""
        source = (_LOOK + ("" if mends else _WHOLE) + body).replace("FORMAT", str(FORMAT))
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


# A router of which a key was lost (evicted, deleted) holds nothing: h.generation is nil then.
_LOOK = """
local head, stream, keys, snapshot, lease = unpack(KEYS)
local fields = {'format', 'generation', 'complete', 'dim', 'known', 'bytes', 'folded_bytes',
  'position', 'folded', 'half_life'}
local h = {}

local function number_of(position)
  return tonumber(string.match(position, '^(%d+)%-%d+$'))
end

local function has(position)
  return position == h.position or #redis.call('XRANGE', stream, position, position) == 1
end

local function look()
  local values = redis.pcall('HMGET', head, unpack(fields))
  if values.err then return {'format', values.err} end
  if not values[1] and redis.call('EXISTS', head) == 0 then return nil end
  if (tonumber(values[1]) or 0) > FORMAT then return {'newer', values[1]} end
  local damaged = values[1] ~= 'FORMAT' and 'format ' .. tostring(values[1])
  for i, field in ipairs(fields) do
    h[field] = i < 8 and tonumber(values[i]) or i >= 8 and values[i]
    damaged = damaged or not h[field] and field .. ' ' .. tostring(values[i])
  end
  if damaged then return {'format', damaged} end
  if not number_of(h.position) or not number_of(h.folded) then return {'format', h.position} end
  if redis.call('EXISTS', stream, snapshot) < 2 or redis.pcall('ZCARD', keys) ~= h.known then
    h.generation = nil
  end
end

local trouble = look()
"""
_WHOLE = """
if trouble then return trouble end
"""

# generation, complete, after, token, dim, n, n keys, n frames -> new, entries and bytes since the snapshot
APPEND = Script.of("""
local complete, n = tonumber(ARGV[2]), tonumber(ARGV[6])
if h.generation ~= tonumber(ARGV[1]) then return {'stale', tostring(h.generation)} end
if n > 0 and h.dim > 0 and h.dim ~= tonumber(ARGV[5]) then return {'dim', tostring(h.dim)} end
local sure = ARGV[3] == '' or has(ARGV[3])
local scores = n > 0 and redis.call('ZMSCORE', keys, unpack(ARGV, 7, 6 + n))
local seen, fresh, frames = {}, {}, {}
for i = 1, n do
  local key = ARGV[6 + i]
  if not scores[i] and not seen[key] and tonumber(key) > 2 * h.complete + 1 then
    seen[key] = true
    fresh[#fresh + 1], fresh[#fresh + 2] = key, key
    frames[#frames + 1] = ARGV[6 + n + i]
  end
end
local moves = sure and complete > h.complete
if #frames > 0 then
  local entry = table.concat(frames)
  h.position = string.format('%.0f-%s', number_of(h.position) + 1, ARGV[4])
  redis.call('XADD', stream, h.position, 'deltas', entry)
  redis.call('ZADD', keys, unpack(fresh))
  h.bytes, h.dim = h.bytes + #entry, tonumber(ARGV[5])
end
if moves then
  h.complete = complete
  redis.call('ZREMRANGEBYSCORE', keys, '-inf', string.format('%.0f', 2 * complete + 1))
end
if moves or #frames > 0 then
  redis.call('HSET', head, 'position', h.position, 'bytes', string.format('%.0f', h.bytes), 'dim', h.dim,
    'complete', string.format('%.0f', h.complete), 'known', redis.call('ZCARD', keys))
end
return {'done', #frames, number_of(h.position) - number_of(h.folded), h.bytes - h.folded_bytes}
""")

# generation, after -> changes: position, frames; or a snapshot
READ = Script.of("""
local function frames_after(position)
  local frames, foreign = {}, nil
  for i, entry in ipairs(redis.call('XRANGE', stream, '(' .. position, '+')) do
    frames[i] = entry[2][1] == 'deltas' and #entry[2] == 2 and entry[2][2]
    foreign = foreign or not frames[i] and {'format', 'entry ' .. entry[1]}
  end
  return foreign, not foreign and table.concat(frames)
end

if not h.generation then return {'nothing'} end
if h.generation == tonumber(ARGV[1]) and ARGV[2] ~= '' and has(ARGV[2]) then
  local foreign, frames = frames_after(ARGV[2])
  return foreign or {'changes', h.position, frames}
end
local held = redis.call('HMGET', snapshot, 'position', 'evidence')
if held[1] ~= h.folded or not held[2] then return {'format', 'snapshot ' .. tostring(held[1])} end
local foreign, frames = frames_after(h.folded)
return foreign or {
  'snapshot', h.position, h.generation, h.complete, h.half_life, h.bytes, held[2], frames,
  table.concat(redis.call('ZRANGE', keys, 0, -1), ' '),
}
""")

# generation, complete, half_life, dim, token, evidence, keys beyond
REPLACE = Script.of(
    """
if trouble and trouble[1] == 'newer' then return trouble end
local newer = not trouble and h.generation and h.generation >= tonumber(ARGV[1])
if newer then return {'stale', tostring(h.generation)} end
local time = redis.call('TIME')
local n = tonumber(time[1]) * 1000000 + tonumber(time[2])
if h.position then n = math.max(n, (number_of(h.position) or 0) + 1) end
local position = string.format('%.0f-%s', n, ARGV[5])
redis.call('SET', lease, '')  -- refused where there is no memory, before anything is lost
redis.call('DEL', head, stream, keys, snapshot, lease)
redis.call('XADD', stream, position, 'deltas', '')
for i = 7, #ARGV do redis.call('ZADD', keys, ARGV[i], ARGV[i]) end
redis.call('HSET', snapshot, 'position', position, 'previous', position, 'evidence', ARGV[6])
redis.call('HSET', head, 'format', 'FORMAT', 'generation', ARGV[1], 'complete', ARGV[2],
  'half_life', ARGV[3], 'dim', ARGV[4], 'position', position, 'folded', position,
  'known', redis.call('ZCARD', keys), 'bytes', 0, 'folded_bytes', 0)
return {'done'}
""",
    mends=True,
)

# generation, position, bytes up to there, evidence; only behind the previous snapshot is anything trimmed
COMPACT = Script.of("""
redis.call('DEL', lease)
local newer = h.generation == tonumber(ARGV[1]) and number_of(ARGV[2]) > number_of(h.folded)
if not newer or not has(ARGV[2]) then return {'stale', tostring(h.generation)} end
redis.call('HSET', snapshot, 'position', ARGV[2], 'previous', h.folded, 'evidence', ARGV[4])
redis.call('HSET', head, 'folded', ARGV[2], 'folded_bytes', ARGV[3])
redis.call('XTRIM', stream, 'MINID', h.folded)
return {'done'}
""")
