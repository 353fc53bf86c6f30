DROP TABLE public.task_submission;
DROP TABLE public.api_key;
