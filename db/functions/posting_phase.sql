create or replace function posting_phase(p_kind text) returns integer
language sql immutable parallel safe
return case when p_kind = 'payment' then 1 when p_kind in ('refund', 'chargeback') then 2 else 3 end;
comment on function posting_phase(text) is
    'Payments post before what may refer to them, reversals last. One order for all: it also keeps postings from deadlocking.';
revoke all on function posting_phase from public;
