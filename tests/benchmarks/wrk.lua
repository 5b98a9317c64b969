-- wrk's requests. Arguments: a prefix for this run's event ids, how many invoices there are, the milliseconds that a
-- connection pauses on average before each request, and what to send: "plain", "mixed", or a file of signed requests, on
-- each line the headers' names and values and the body, separated by tabs.
local thread_number = 0
function setup(thread)
    thread:set("number", thread_number)
    thread_number = thread_number + 1
end

function init(args)
    prefix = args[1] .. "-" .. number .. "-"
    invoices = tonumber(args[2])
    sent = 0
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    local pause = tonumber(args[3])
    if pause > 0 then
        delay = function() return math.random(0, 2 * pause) end
    end
    if args[4] == "mixed" then
        request = mixed
    elseif args[4] ~= "plain" then
        signed = {}
        for line in io.lines(args[4]) do
            local parts = {}
            for part in line:gmatch("[^\t]+") do
                table.insert(parts, part)
            end
            for name = 1, #parts - 1, 2 do
                wrk.headers[parts[name]] = parts[name + 1]
            end
            table.insert(signed, wrk.format(nil, nil, nil, parts[#parts]))
        end
        request = function()
            sent = sent + 1
            return signed[(sent - 1) % #signed + 1]
        end
    end
end

function request()
    sent = sent + 1
    return wrk.format(nil, nil, nil, string.format(
        '{"event_id": "%s%d", "invoice_id": %d, "amount": 1}', prefix, sent, math.random(invoices)))
end

-- Of 20: a payment that was sent before, a refund, an unknown invoice, 17 payments; and every second refund is undone
-- by a reversal that comes 38 requests too early. Both endpoints take turns.
function event(sequence)
    local of_20, fields = sequence % 20, ""
    local invoice = 1 + sequence * 7919 % invoices
    if of_20 == 0 then
        return event(sequence - 13)
    elseif of_20 == 1 then
        fields = string.format(', "kind": "refund", "reference": "re-%s%d"', prefix, sequence)
    elseif of_20 == 2 then
        invoice = -1
    elseif sequence % 40 == 3 then
        invoice = 1 + (sequence + 38) * 7919 % invoices
        fields = string.format(', "kind": "refund_reversal", "reference": "re-%s%d"', prefix, sequence + 38)
    end
    return string.format('{"event_id": "%s%d", "invoice_id": %d, "amount": 1%s}', prefix, sequence, invoice, fields)
end

function mixed()
    sent = sent + 1
    local path = sent % 2 == 0 and "/webhooks-sync/payments" or "/webhooks/payments"
    return wrk.format(nil, path, nil, event(sent))
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("measured %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9), errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
end
