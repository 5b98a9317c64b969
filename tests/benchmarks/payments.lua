-- wrk's requests: every event has an id of its own, its invoice is one of 10,000. A second argument names a file of signed
-- requests instead: on each line a header's name, its value and the body, separated by tabs.
local thread_number = 0
function setup(thread)
    thread:set("number", thread_number)
    thread_number = thread_number + 1
end
function init(args)
    prefix = (args[1] or "run") .. "-" .. number .. "-"
    sent = 0
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    if args[2] then
        signed = {}
        for line in io.lines(args[2]) do
            local name, value, body = line:match("([^\t]*)\t([^\t]*)\t(.*)")
            wrk.headers[name] = value
            table.insert(signed, wrk.format(nil, nil, nil, body))
        end
    end
end
function request()
    sent = sent + 1
    if signed then
        return signed[(sent - 1) % #signed + 1]
    end
    return wrk.format(nil, nil, nil, string.format(
        '{"event_id": "%s%d", "invoice_id": %d, "amount": 1}', prefix, sent, math.random(1, 10000)))
end
