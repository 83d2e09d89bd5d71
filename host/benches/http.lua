-- The load of http.sh: one body, sent by so many users in turn.
--
--   wrk .. -s http.lua URL -- BODY USERS [check]
--
-- With `check`, the status and the text of every answer are looked at, which costs wrk time: for the run that warms
-- up. Without it, wrk itself counts connections that break, requests that time out, and statuses from 400 on.
--
-- The last line is: result REQUESTS DURATION P50 P99 BAD, the times in microseconds.

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   local body, users, check = args[1], tonumber(args[2]), args[3] == "check"
   wrk.method = "POST"
   wrk.body = body
   wrk.headers["Content-Type"] = "application/json"
   requests = {}
   for user = 1, users do
      wrk.headers["Cookie"] = "nat-session=user-" .. user
      requests[user] = wrk.format()
   end
   -- Threads begin apart from each other, so that they do not meet at the same users.
   sent = number * math.floor(users / 2)
   wrong = 0
   if check then
      response = function(status, _, text)
         if status ~= 200 or not text:find('"success":true', 1, true) then
            wrong = wrong + 1
         end
      end
   end
end

function request()
   sent = sent + 1
   return requests[(sent - 1) % #requests + 1]
end

function done(summary, latency)
   local errors = summary.errors
   local wrong = 0
   for _, thread in ipairs(threads) do
      wrong = wrong + thread:get("wrong")
   end
   -- An answer with a wrong status is counted by wrk and, with `check`, here too.
   local bad = errors.connect + errors.read + errors.write + errors.timeout + math.max(errors.status, wrong)
   local p50, p99 = latency:percentile(50), latency:percentile(99)
   io.write(string.format("\nresult %d %d %d %d %d\n", summary.requests, summary.duration, p50, p99, bad))
end
