# figures and the report
