-- What wrk cannot be told by flags, behind `--`: "pipeline N", "turns FILE" (requests without a body, sent one after the other and again
-- from the first), "raw FILE" (bytes that are no request), "post FILE". Prints JSON.

local batch, raw, verified

local function content(path)
   local file = assert(io.open(path, "rb"))
   local bytes = file:read("*a")
   file:close()
   return bytes
end

function init(args)
   local what, value = args[1], args[2]
   if what == "pipeline" then
      local one = wrk.format()
      batch = one:rep(tonumber(value))
      request = function() return batch end
   elseif what == "turns" then
      local requests, turn = {}, 0
      for each in content(value):gmatch(".-\r\n\r\n") do
         requests[#requests + 1] = each
      end
      local number = #requests
      request = function()
         turn = turn % number + 1
         return requests[turn]
      end
   elseif what == "raw" then
      raw = content(value)
      -- wrk looks at the first request before it starts, and insists that it is HTTP. That one is not sent.
      request = function()
         if not verified then
            verified = true
            return wrk.format()
         end
         return raw
      end
   elseif what == "post" then
      wrk.method = "POST"
      wrk.body = content(value)
   end
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "bytes": %d, "p50": %.6f, "p99": %.6f, "errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.connect, e.read, e.write, e.status, e.timeout))
end
