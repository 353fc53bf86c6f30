DROP VIEW public.maintenance_activity;
DROP MATERIALIZED VIEW public.mv_maintenance_activity;
DROP TABLE public.maintenance_audit;
DROP TABLE public.pii_policy;
DROP TABLE public.retention_policy;
DROP TABLE public.customer_event;
