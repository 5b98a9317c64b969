-- wrk's requests: every event has an id of its own, its invoice is one of 10,000.
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
end
function request()
    sent = sent + 1
    return wrk.format(nil, nil, nil, string.format(
        '{"event_id": "%s%d", "invoice_id": %d, "amount": 1}', prefix, sent, math.random(1, 10000)))
end
